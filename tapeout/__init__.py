"""The shell around the stages: command line, pipeline, store, bundle."""
