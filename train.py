"""Trains a model: ``python train.py model=pneumonia_cnn``; see conf/train.yaml for every key."""

# Shell completion of `python train.py` looks for the text @hydra.main in this file.

from medassay.cli import train_entry

if __name__ == "__main__":
    train_entry()
