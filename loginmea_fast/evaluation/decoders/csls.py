"""Cross-domain similarity local scaling (Conneau et al., ICLR 2018): the nearest once hubs are taken down.

c_ij = 2 s_ij - r_i - r_j with r the mean of the best cosines of a row. `ops.alignment_topk` scores so, over both whole
sides and exactly; what is left to do is what `cosine` does.
"""

from __future__ import annotations

from loginmea_fast.evaluation.decoders.base import register_decoder
from loginmea_fast.evaluation.decoders.cosine import nearest

register_decoder("csls", nearest, "csls", "the nearest by CSLS, which takes hubs down")
