"""What a run can learn from: the kinds of data modules."""

from __future__ import annotations

from medassay.data.curves.modules import CurveData
from medassay.data.modules import LabelledData
from medassay.data.segmentation.modules import SegmentationData

AnyData = LabelledData | SegmentationData | CurveData
