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

    from targets.probe import Available, probe_accelerators, probe_host, probe_tools

    host, tools, accelerators = probe_host(), probe_tools(), probe_accelerators()
    if form == "json":
        echo_json(
            {
                "host": asdict(host),
                "tools": {name: asdict(tool) for name, tool in tools.items()},
                "accelerators": list(accelerators),
            }
        )
        return
    for name, value in asdict(host).items():
        shown = ", ".join(value) if isinstance(value, tuple) else value
        click.echo(f"{name:<18} {shown if shown not in (None, '') else 'unknown'}")
    click.echo(f"{'accelerators':<18} {', '.join(accelerators) or 'no NPU or GPU device node'}")
    for name, tool in tools.items():
        if isinstance(tool, Available):
            click.echo(f"{name:<18} {tool.version}")
        else:
            click.echo(f"{name:<18} missing: {tool.reason}\n{'':<18} help: {tool.help}")
