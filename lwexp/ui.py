"""`python -m lwexp.ui`: MLflow's own page on the store that `run` uses, on this machine only, with the link to it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .config.command_options import Parser, number, tracking_config
from .config.schema import MLflowConfig
from .errors import ConfigError, LwexpError
from .redaction import redact_addresses
from .tracking.address import experiment_name, kind
from .tracking.contact import check_store
from .tracking.ui_server import FIRST_PORT, free_port, links, serve

_OPTIONS = ["tracking.uri", "tracking.experiment", "tracking.timeout"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 for a failure, 2 for invalid arguments (one line)."""
    try:
        config, experiment_given, port = _parse(sys.argv[1:] if arguments is None else arguments)
        uri = check_store(config, create=False)
        if kind(uri).startswith("http"):
            print(links(uri, experiment_name(config), must_exist=experiment_given, timeout=config.timeout))
            return 0
        with serve(uri, free_port(port)) as server:
            print(f"starting MLflow on {redact_addresses(uri)} …", flush=True)
            server.await_start()
            shown = links(server.address, experiment_name(config), must_exist=experiment_given, timeout=config.timeout)
            print(f"{shown}\nPress Ctrl-C to end it", flush=True)
            server.wait()
    except LwexpError as error:
        print(f"lwexp-ui: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 0


def _parse(arguments: Sequence[str]) -> tuple[MLflowConfig, bool, int | None]:
    """The store's config, whether the experiment was given, and the port."""
    parser = Parser("lwexp-ui", "Start MLflow's page on the runs that lwexp has tracked, and print the link.", _OPTIONS)
    parser.add_argument("--port", help=f"port on 127.0.0.1 (default: the first free one from {FIRST_PORT})")
    parser.add_argument("options", nargs="*", metavar="tracking.key=value", help="another store or experiment")
    parsed = parser.parse_args(arguments)
    config = tracking_config(parsed.options, _OPTIONS)
    given = any(option.startswith("tracking.experiment=") for option in parsed.options)
    port = None if parsed.port is None else int(number("--port", parsed.port, int))
    if port is not None and not 0 < port < 65536:
        raise ConfigError("--port", port, "must be from 1 to 65535")
    return config, given, port


if __name__ == "__main__":
    sys.exit(main())
