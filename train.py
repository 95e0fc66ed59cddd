"""Trains a model: ``python train.py model=pneumonia_cnn``; see conf/train.yaml for every key."""

from medassay.cli import train_entry

if __name__ == "__main__":
    train_entry()
