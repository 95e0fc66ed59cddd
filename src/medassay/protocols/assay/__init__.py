"""The assay: is this synthetic data any good?"""

from medassay.protocols.assay.protocol import AssaySettings as AssaySettings
from medassay.protocols.assay.protocol import Workplace as Workplace
from medassay.protocols.assay.protocol import assay as assay
from medassay.protocols.assay.protocol import assay_run as assay_run
