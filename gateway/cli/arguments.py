"""Arguments that several commands take."""

import argparse
from pathlib import Path

CONFIG_HELP = "TOML, the daemon's; `gateway check` explains it"


def add_wearable(parser: argparse.ArgumentParser, config_help: str = CONFIG_HELP) -> None:
    """Which one, of which configuration."""
    parser.add_argument("wearable", metavar="WEARABLE", help="its id in the configuration")
    add_config(parser, config_help)


def add_config(parser: argparse.ArgumentParser, help_: str = CONFIG_HELP) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", default=argparse.SUPPRESS, help=help_)
