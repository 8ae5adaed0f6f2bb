"""Commands that look: targets, doctor."""

import click

from tapeout.output import echo_json

FORMATS = click.Choice(["text", "json"])
format_option = click.option("--format", "form", type=FORMATS, default="text", show_default=True)


@click.command()
@format_option
def targets(form: str) -> None:
    """List the targets, their devices and how far this release takes each."""
    from targets.target import list_targets, load_target

    loaded = [load_target(name) for name in list_targets()]
    if form == "json":
        rows = [
            {
                "target": target.name,
                "product": target.product,
                "devices": {d.name: d.generation for d in target.devices},
            }
            for target in loaded
        ]
        echo_json(rows)
        return
    for target in loaded:
        click.echo(f"{target.name}: {target.product}")
        for device in target.devices:
            for runtime in device.runtimes:
                how = runtime.status or f"not in this release: {runtime.missing}"
                click.echo(f"    {device.name:<8} {runtime.backend:<20} {', '.join(runtime.schemes):<28} {how}")


@click.command()
@format_option
def doctor(form: str) -> None:
    """Say what this machine has, what is missing, and the line that changes it."""
    from dataclasses import asdict

    from tapeout.doctor import examine
    from targets.probe import probe_host

    host, findings = probe_host(), examine()
    if form == "json":
        echo_json({"host": asdict(host), "findings": [asdict(finding) for finding in findings]})
        return
    for name, value in asdict(host).items():
        shown = ", ".join(value) if isinstance(value, tuple) else value
        click.echo(f"{name:<18} {shown if shown not in (None, '') else 'unknown'}")
    kind = ""
    for finding in findings:
        if finding.kind != kind:
            kind = finding.kind
            click.echo(f"\n{kind}s")
        if finding.version is not None:
            click.echo(f"  {finding.name:<58} {finding.version}")
        else:
            click.echo(f"  {finding.name:<58} missing\n      help: {finding.help}")
