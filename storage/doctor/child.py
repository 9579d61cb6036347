"""The process that looks at tables and mends them: `python -m storage.doctor.child ORDER.json`.

What takes too much memory or time ends this process and not the web role. The answer is written to `result.json` beside
the order.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from storage.disk import DiskFullError, refusing_full_disk
from storage.doctor.examine import examine
from storage.doctor.order import Order
from storage.doctor.treat import treat
from storage.errors import StudioError
from storage.tables.child import RESULT_NAME, WithoutPandas, end_with_parent, limit_memory, out_of_memory


def answer(order: Order, folder: Path) -> dict[str, Any]:
    """What `examine` or `treat` returns, or a refusal as `{"error": {"code", "message"}}`."""
    try:
        with refusing_full_disk("repairing the table"):
            return treat(order, folder) if order.repairs else examine(order)
    except DiskFullError as error:
        return {"error": {"code": "disk_full", "message": error.message}}
    except StudioError as error:
        return {"error": {"code": error.code, "message": error.message}}
    except MemoryError:
        return {"error": {"code": "too_large", "message": out_of_memory().message}}


def main(arguments: list[str]) -> None:
    """Reads the order, answers it in the same folder."""
    path = Path(arguments[0])
    order = Order.from_dict(json.loads(path.read_text(encoding="utf-8")))
    sys.meta_path.insert(0, WithoutPandas())
    limit_memory(order.limits)
    end_with_parent()
    result = answer(order, path.parent)
    part = path.with_name(f"{RESULT_NAME}.part")
    part.write_text(json.dumps(result), encoding="utf-8")
    os.replace(part, path.with_name(RESULT_NAME))


if __name__ == "__main__":
    main(sys.argv[1:])
