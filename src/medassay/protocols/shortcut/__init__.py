"""Has a classifier learnt a stamp instead of the disease?"""

from medassay.protocols.shortcut.protocol import ShortcutSettings, shortcut_run

__all__ = ["ShortcutSettings", "shortcut_run"]
