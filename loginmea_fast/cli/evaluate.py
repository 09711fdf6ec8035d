"""`loginmea-fast evaluate`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from loginmea_fast.cli.options import Json, key_flags, keys_given
from loginmea_fast.cli.tables import describe_metrics, described_epoch
from loginmea_fast.training.config import KEYS

EXAMPLES = """\
examples:
  loginmea-fast evaluate runs/zh_en
  loginmea-fast evaluate runs/zh_en --candidates all       rank among all entities, not among the test targets alone
  loginmea-fast evaluate runs/zh_en --decoder sinkhorn     beside cosine and CSLS; all: every decoder
  loginmea-fast evaluate runs/zh_en --checkpoint last      the parameters of the last epoch, not the best
  loginmea-fast evaluate runs/zh_en --json | jq .csls.left_to_right.mrr"""


if TYPE_CHECKING:
    Flags = dict[str, Any]
else:
    _DECODING = (key.name for key in KEYS.values() if key.section == "evaluation")
    Flags = key_flags(("vectors", *_DECODING, "device", "backend"))


def run(
    path: Annotated[str, Parameter(name="RUN", metavar="RUN", help="run directory that train made")],
    /,
    *,
    data: Annotated[
        str | None, Parameter(metavar="DIR", help="where the data set is now, if it has moved")
    ] = None,
    checkpoint: Annotated[
        Literal["best", "last"] | None,
        Parameter(help="which parameters; default: best, or last where no epoch was validated yet"),
    ] = None,
    as_json: Json = False,
    keys: Annotated[Flags | None, Parameter(name="*")] = None,
) -> int:
    """Print the metrics of one of the run's checkpoints."""
    from loginmea_fast.runs import evaluate

    changes = keys_given(keys) | ({} if data is None else {"path": data})
    result = evaluate(path, checkpoint=checkpoint, **changes)
    if as_json:
        print(json.dumps({"run": path, **result}, indent=2))
    else:
        epoch = described_epoch(result["epoch"], result["best_epoch"])
        print(f"{path}: {epoch}; {', '.join(result['modalities']) or 'structure only'}")
        print(describe_metrics(result))
    return 0
