"""Evaluates a finished run: ``python evaluate.py run=outputs/<model>/<run>``; see conf/evaluate.yaml and conf/protocol/."""

# Shell completion of `python evaluate.py` looks for the text @hydra.main in this file.

from medassay.cli import evaluate_entry

if __name__ == "__main__":
    evaluate_entry()
