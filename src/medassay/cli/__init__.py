"""The command lines ``train`` and ``evaluate``."""

from medassay.cli.entry import evaluate_entry as evaluate_entry
from medassay.cli.entry import main as main
from medassay.cli.entry import train_entry as train_entry
