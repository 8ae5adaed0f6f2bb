"""Turn a package and its golden reference into a report and a verdict."""
