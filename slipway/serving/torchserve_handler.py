"""How TorchServe runs a registered engine: the handler inside the archive that ``slipway step publish`` writes.

TorchServe's Python has to have Slipway with the engine's extra. A request is the JSON of the Open Inference Protocol.
How large a body may be, and how long an answer may take, are TorchServe's own settings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slipway.engines import engine
from slipway.engines.base import RunOptions
from slipway.errors import BadInputError
from slipway.records import Evidence
from slipway.serving.answering.engine_file import require_proven, threads_of
from slipway.serving.http.inference_json import id_of, read_request, write_response

EVIDENCE = "evidence.json"
BAD_REQUEST = 400


class EngineHandler:
    """One engine file behind TorchServe's ``handle``; TorchServe asks each of its workers for one request at a time."""

    def initialize(self, context: Any) -> None:
        """Open the engine with the threads that were found best for it.

        Raises:
            TamperedError: the file's sha256 is not the one in its evidence.
        """
        folder = Path(context.system_properties["model_dir"])
        evidence = Evidence.model_validate_json((folder / EVIDENCE).read_text(encoding="utf-8"))
        (path,) = (folder / "served").iterdir()
        require_proven(path, evidence, "publish the model again")
        model = context.manifest["model"]
        self._name, self._version = model["modelName"], model["modelVersion"]
        self._session = engine(evidence.spec.engine).load(path, RunOptions(threads=threads_of(evidence)))

    def handle(self, requests: list[dict[str, Any]], context: Any) -> list[dict[str, Any]]:
        """An answer to each request.

        Raises:
            PredictionException: TorchServe's own, which it answers with status 400: the request is not one that the
                engine takes.
        """
        from ts.utils.util import PredictionException

        try:
            return [self._answer(request.get("body") or request.get("data")) for request in requests]
        except BadInputError as error:
            raise PredictionException(str(error), BAD_REQUEST) from error

    def _answer(self, body: object) -> dict[str, Any]:
        if isinstance(body, bytes | bytearray):
            try:
                body = json.loads(body)
            except (ValueError, RecursionError) as error:
                raise BadInputError(f"the request's body is not JSON: {error}") from error
        arrays = read_request(body)
        request_id = id_of(body) if isinstance(body, Mapping) else None
        return write_response(self._name, self._version, self._session.infer(arrays), request_id)
