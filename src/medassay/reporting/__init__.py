import logging

logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # on a new machine it announces a list of fonts
