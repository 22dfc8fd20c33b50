"""The Open Inference Protocol, version 2 (KServe), over HTTP: the model of a line, without history."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import math
import re
import threading
from contextlib import nullcontext
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from offnominal import __version__
from offnominal.detector import Detector
from offnominal.errors import InputError
from offnominal.station.accounts import Identity
from offnominal.station.errors import NotFoundError, TooLargeError
from offnominal.station.folder import remove
from offnominal.station.judge import LoadedVersion
from offnominal.station.station import Station
from offnominal.station.web.guard import SMALL, identity_of
from offnominal.station.web.problems import RESPONSES
from offnominal.station.web.uploads import require_pixels
from offnominal.types import Inspection as Result

router = APIRouter(prefix="/v2", tags=["open inference"], responses=RESPONSES)
Caller = Annotated[Identity, Depends(identity_of)]
Picture = np.ndarray[Any, np.dtype[np.uint8]]
_large = threading.Lock()
#: Header of the binary tensor extension: bytes of the JSON before the tensors.
LENGTH = "Inference-Header-Content-Length"
INPUTS = [{"name": "image", "datatype": "UINT8", "shape": [1, -1, -1, 3]}]
OUTPUTS = {"score": "FP32", "p_value": "FP32", "anomalous": "BOOL", "anomaly_map": "FP32"}


@router.get("")
async def server(caller: Caller) -> dict[str, Any]:
    """Name, version and extensions of the server."""
    return {"name": "offnominal", "version": __version__, "extensions": ["binary_tensor_data"]}


@router.get("/health/live")
async def live(caller: Caller) -> dict[str, bool]:
    """The process answers."""
    return {"live": True}


@router.get("/health/ready")
def ready(request: Request, response: Response, caller: Caller) -> dict[str, bool]:
    """Whether the station can inspect; 503 if it cannot."""
    station: Station = request.app.state.station
    is_ready = not station.problems()
    response.status_code = 200 if is_ready else 503
    return {"ready": is_ready}


@router.get("/models/{name}")
def metadata(name: str, request: Request, caller: Caller) -> dict[str, Any]:
    """Inputs and outputs of the model of a line. `image` may also be BYTES of shape [1]: an encoded image."""
    loaded = _loaded(request, name)
    return {
        "name": name,
        "versions": [loaded.digest],
        "platform": "offnominal",
        "inputs": INPUTS,
        "outputs": [
            {"name": output, "datatype": kind, "shape": [1, -1, -1] if output == "anomaly_map" else [1]}
            for output, kind in OUTPUTS.items()
        ],
    }


@router.get("/models/{name}/ready")
def model_ready(name: str, request: Request, caller: Caller) -> dict[str, Any]:
    """Whether the model of a line is loaded."""
    _loaded(request, name)
    return {"name": name, "ready": True}


@router.post("/models/{name}/infer")
async def infer(name: str, request: Request, caller: Caller) -> Response:
    """Inspect one image: `score`, `p_value`, `anomalous` and `anomaly_map`. Nothing is stored. Role: operator."""
    caller.require("operator")
    station: Station = request.app.state.station
    loaded = _loaded(request, name)
    station.require_space()
    body = await request.body()
    header, image, outputs = await run_in_threadpool(_parsed, station, body, request.headers.get(LENGTH))
    result: Result = await asyncio.wrap_future(station.judge.call(name, lambda detector: _inspect(station, detector, image)))
    return await run_in_threadpool(_response, header, outputs, name, loaded.digest, result)


def _loaded(request: Request, name: str) -> LoadedVersion:
    station: Station = request.app.state.station
    loaded = station.judge.loaded(name)
    if loaded is None:
        raise NotFoundError(f"model {name[:70]}: no such line, or no model is ready on it")
    return loaded


def _parsed(station: Station, body: bytes, length: str | None) -> tuple[dict[str, Any], Picture | bytes, list[dict[str, Any]]]:
    """The header, the image and the outputs that are asked for. Large bodies take turns: numbers in JSON take much memory."""
    with _large if len(body) > SMALL else nullcontext():
        header, tensors = _split(body, length)
        return header, _image(header, tensors, station), _asked(header)


def _split(body: bytes, length: str | None) -> tuple[dict[str, Any], bytes]:
    if length is not None and (not re.fullmatch("[0-9]{1,18}", length) or int(length) > len(body)):
        raise InputError(f"{LENGTH} = {length[:20]!r}: is not a length within the body")
    size = len(body) if length is None else int(length)
    try:
        header = json.loads(body[:size])
    except (ValueError, RecursionError):
        raise InputError("the body is not JSON; see the Open Inference Protocol, version 2") from None
    if not isinstance(header, dict):
        raise InputError("the body must be a JSON object with inputs")
    return header, body[size:]


def _image(header: dict[str, Any], tensors: bytes, station: Station) -> Picture | bytes:
    inputs = header.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict) or inputs[0].get("name") != "image":
        raise InputError("inputs: give exactly one, named image")
    given = inputs[0]
    kind, shape, data = given.get("datatype"), given.get("shape"), given.get("data")
    parameters = given.get("parameters")
    if not isinstance(shape, list) or not all(isinstance(side, int) and 0 < side < 2**31 for side in shape):
        raise InputError("image: shape must be a list of positive integers")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is not None:
        if not isinstance(size, int) or size != len(tensors):
            raise InputError(f"image: binary_data_size must be {len(tensors)}, the bytes after the JSON")
        raw: Any = tensors
    else:
        raw = data
    if kind == "BYTES":
        return _encoded(raw, shape)
    if kind != "UINT8":
        raise InputError("image: datatype must be UINT8 or BYTES")
    plain = shape[1:] if len(shape) == 4 or (len(shape) == 3 and shape[-1] != 3) else shape
    if shape[: len(shape) - len(plain)] not in ([], [1]) or not (len(plain) == 2 or (len(plain) == 3 and plain[2] == 3)):
        raise InputError("image: shape must be [1, H, W, 3] or [1, H, W]")
    if plain[0] * plain[1] > station.settings.limits.megapixels * 1e6:
        raise TooLargeError(f"image: at most {station.settings.limits.megapixels:g} megapixels are accepted")
    values = np.frombuffer(raw, np.uint8) if isinstance(raw, bytes) else _integers(raw)
    if values.size != math.prod(plain):
        raise InputError(f"image: has {values.size} values, its shape needs {math.prod(plain)}")
    return values.reshape(plain)


def _integers(data: Any) -> Picture:
    """A list of integers, perhaps nested. NumPy alone would also take fractions and digits in quotes."""
    try:
        values = np.array(data)
    except (ValueError, OverflowError):
        values = np.array(None)
    if values.dtype.kind not in "iu" or not values.size or values.min() < 0 or values.max() > 255:
        raise InputError("image: data must be integers from 0 to 255")
    return values.astype(np.uint8).ravel()


def _encoded(raw: Any, shape: list[int]) -> bytes:
    """The bytes of an encoded image: after a length of four bytes (binary), or in base64 (JSON)."""
    if shape not in ([1], [1, 1]):
        raise InputError("image: BYTES must have the shape [1]")
    if isinstance(raw, bytes):
        if len(raw) < 4 or int.from_bytes(raw[:4], "little") != len(raw) - 4:
            raise InputError("image: BYTES must be a length of four bytes and the encoded image")
        return raw[4:]
    first = raw[0] if isinstance(raw, list) and len(raw) == 1 else None
    first = first[0] if isinstance(first, list) and len(first) == 1 else first
    try:
        return base64.b64decode(first, validate=True)  # type: ignore[arg-type]
    except (binascii.Error, TypeError, ValueError):
        raise InputError("image: data must be one encoded image in base64") from None


def _inspect(station: Station, detector: Detector, image: Any) -> Result:
    if not isinstance(image, bytes):
        return detector.inspect(image)
    path = station.folder.new_upload()
    try:
        path.write_bytes(image)
        require_pixels(path, "image", station.settings.limits.megapixels)
        return detector.inspect(path)
    except InputError as error:
        raise InputError(str(error).replace(str(path), "image")) from None
    finally:
        remove(path)


def _asked(header: dict[str, Any]) -> list[dict[str, Any]]:
    asked = header.get("outputs") or [{"name": output} for output in OUTPUTS]
    if not isinstance(asked, list) or not all(isinstance(one, dict) and one.get("name") in list(OUTPUTS) for one in asked):
        raise InputError(f"outputs: known are {', '.join(OUTPUTS)}")
    return asked


def _response(header: dict[str, Any], asked: list[dict[str, Any]], name: str, digest: str, result: Result) -> Response:
    values = {
        "score": np.array([result.score], np.float32),
        "p_value": np.array([result.p_value], np.float32),
        "anomalous": np.array([result.anomalous], np.bool_),
        "anomaly_map": result.anomaly_map[None],
    }
    parameters = header.get("parameters")
    binary = bool(parameters.get("binary_data_output")) if isinstance(parameters, dict) else False
    outputs, tail = [], []
    for one in asked:
        tensor = values[one["name"]]
        output: dict[str, Any] = {"name": one["name"], "datatype": OUTPUTS[one["name"]], "shape": list(tensor.shape)}
        own = one.get("parameters")
        if own.get("binary_data", binary) if isinstance(own, dict) else binary:
            content = np.ascontiguousarray(tensor).tobytes()
            output["parameters"] = {"binary_data_size": len(content)}
            tail.append(content)
        else:
            output["data"] = tensor.ravel().tolist()
        outputs.append(output)
    answer: dict[str, Any] = {"model_name": name, "model_version": digest, "outputs": outputs}
    if isinstance(header.get("id"), str):
        answer["id"] = header["id"]
    content = json.dumps(answer).encode()
    if not tail:
        return Response(content, media_type="application/json")
    headers = {LENGTH: str(len(content))}
    return Response(content + b"".join(tail), media_type="application/octet-stream", headers=headers)
