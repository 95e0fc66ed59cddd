"""Heat maps: where a classifier looks, whether that explains it, and which method can be trusted."""

from medassay.protocols.gradcam.protocol import GradcamSettings as GradcamSettings
from medassay.protocols.gradcam.protocol import gradcam_run as gradcam_run
