"""Commands about devices: ``device serve`` and ``device check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sousvit.cli.app import Json, Plugins, app, load_plugins, print_json
from sousvit.errors import UserError

device_app = typer.Typer(help="Measure on other devices: run their agent, or check them.", no_args_is_help=True)

app.add_typer(device_app, name="device")


@device_app.command("serve")
def device_serve_command(
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="port; 0 takes a free one")] = 8765,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="file with the token that clients must give")
    ] = None,
    host_name: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="another name that the device is reached by; repeatable")
    ] = None,
    max_gb: Annotated[float, typer.Option(min=0.001, metavar="GB", help="most that uploads may take")] = 2.0,
    web: Annotated[
        bool, typer.Option("--web", help="a page opened in a browser measures, and not this machine")
    ] = False,
    assets: Annotated[
        Path | None, typer.Option(metavar="DIR", help="with --web: folder of the runtimes' npm packages")
    ] = None,
    plugins: Plugins = None,
) -> None:
    """Run the agent that measures on this device, until Ctrl-C.

    Addresses other than loopback need a token.
    """
    from sousvit.objectives.devices.browser.relay import serve_page
    from sousvit.objectives.devices.remote.agent import serve

    load_plugins(plugins)
    if web:
        serve_page(host, port, token_file, max_gb, host_name or (), assets)
        return
    if assets is not None:
        raise UserError("runtimes for browsers are served with a page", f"--assets {assets}", "add --web")
    serve(host, port, token_file, max_gb, host_name or ())


@device_app.command("check")
def device_check_command(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="target profile, or a YAML file")],
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Say what a target's device is, or why it cannot be used."""
    from sousvit.objectives.devices.open import open_device
    from sousvit.objectives.targets.profiles import load_target
    from sousvit.search.report.terminal import console, print_facts

    load_plugins(plugins)
    profile = load_target(target)
    facts = open_device(profile).check()
    print_json({"target": str(profile), **facts}) if as_json else print_facts(console(), str(profile), facts)
