"""The Open Inference Protocol: verdicts as in Python, in JSON and in binary, and clear errors for what is no request."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from conftest import damaged, texture
from offnominal import Detector
from station.calls import is_problem
from station.conftest import ServerFactory, StationFactory
from station.servers import LINE, Server

pytestmark = pytest.mark.slow

INFER, LENGTH = f"/v2/models/{LINE}/infer", "Inference-Header-Content-Length"
IMAGE = damaged(160)[0]


@pytest.fixture(scope="module")
def running(station_folder: StationFactory, server: ServerFactory) -> Iterator[Server]:
    with server(station_folder(config="[limits]\nmegapixels = 1.0\nupload_megabytes = 20.0\n")) as started:
        yield started


@pytest.fixture
def client(running: Server) -> Iterator[httpx.Client]:
    with running.client() as client:
        yield client


def tensor(image: np.ndarray, **more: Any) -> dict[str, Any]:
    """A request with an image as numbers."""
    data = {"name": "image", "datatype": "UINT8", "shape": [1, *image.shape], "data": image.ravel().tolist()}
    return {"inputs": [data], **more}


def binary(client: httpx.Client, header: dict[str, Any], content: bytes, length: str | None = None) -> httpx.Response:
    """Send a request with the tensor after the JSON."""
    head = json.dumps(header).encode()
    return client.post(INFER, content=head + content, headers={LENGTH: str(len(head)) if length is None else length})


def outputs(answer: httpx.Response) -> dict[str, np.ndarray]:
    """Tensors of an answer, as numbers or as bytes after the JSON."""
    assert answer.status_code == 200, answer.text[:300]
    length = int(answer.headers.get(LENGTH, len(answer.content)))
    shown, tail = json.loads(answer.content[:length]), answer.content[length:]
    found, kinds = {}, {"FP32": np.float32, "BOOL": np.bool_}
    for output in shown["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            values: Any = np.array(output["data"], kinds[output["datatype"]])
        else:
            values, tail = np.frombuffer(tail[:size], kinds[output["datatype"]]), tail[size:]
        found[output["name"]] = values.reshape(output["shape"])
    assert tail == b""
    return found


def test_health_and_metadata(client: httpx.Client) -> None:
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get(f"/v2/models/{LINE}/ready").json() == {"name": LINE, "ready": True}
    shown = client.get(f"/v2/models/{LINE}").json()
    assert [one["name"] for one in shown["inputs"]] == ["image"]
    assert [one["name"] for one in shown["outputs"]] == ["score", "p_value", "anomalous", "anomaly_map"]
    assert is_problem(client.get("/v2/models/nowhere"), 404)
    assert is_problem(client.post("/v2/models/nowhere/infer", json={}), 404)


def test_every_form_of_a_request_gives_the_verdict_of_python(client: httpx.Client, detector: Detector, tmp_path: Path) -> None:
    (path := tmp_path / "part.png").write_bytes(cv2.imencode(".png", cv2.cvtColor(IMAGE, cv2.COLOR_RGB2BGR))[1].tobytes())
    expected = detector.inspect(path)
    raw, encoded = IMAGE.tobytes(), path.read_bytes()
    shape, prefixed = [1, *IMAGE.shape], len(encoded).to_bytes(4, "little") + encoded
    plain = {"name": "image", "datatype": "UINT8", "shape": shape, "parameters": {"binary_data_size": len(raw)}}
    packed = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(prefixed)}}
    text = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(encoded).decode()]}
    nested = {"name": "image", "datatype": "UINT8", "shape": shape, "data": IMAGE[None].tolist()}
    answers = {
        "numbers": client.post(INFER, json=tensor(IMAGE)),
        "nested numbers": client.post(INFER, json={"inputs": [nested]}),
        "without the batch": client.post(INFER, json={"inputs": [nested | {"shape": list(IMAGE.shape)}]}),
        "binary": binary(client, {"inputs": [plain], "parameters": {"binary_data_output": True}}, raw),
        "encoded, binary": binary(client, {"inputs": [packed]}, prefixed),
        "encoded, base64": client.post(INFER, json={"inputs": [text]}),
    }
    for name, answer in answers.items():
        found = outputs(answer)
        assert found["score"].tolist() == [np.float32(expected.score)], name
        assert found["p_value"].tolist() == [np.float32(expected.p_value)], name
        assert found["anomalous"].tolist() == [expected.anomalous], name
        assert np.array_equal(found["anomaly_map"][0], expected.anomaly_map), name
    assert expected.anomalous


def test_grey_images(client: httpx.Client, detector: Detector) -> None:
    grey = np.ascontiguousarray(texture(161)[:, :, 0])
    for shape in ([1, *grey.shape], list(grey.shape)):
        given = {"name": "image", "datatype": "UINT8", "shape": shape, "data": grey.ravel().tolist()}
        assert outputs(client.post(INFER, json={"inputs": [given]}))["score"][0] == np.float32(detector.inspect(grey).score)


def test_only_the_outputs_that_are_asked_for_are_sent(client: httpx.Client) -> None:
    asked = [{"name": "anomaly_map", "parameters": {"binary_data": True}}, {"name": "score"}]
    answer = client.post(INFER, json=tensor(IMAGE, outputs=asked, id="part 7"))
    assert list(outputs(answer)) == ["anomaly_map", "score"]
    shown = json.loads(answer.content[: int(answer.headers[LENGTH])])
    assert (shown["id"], shown["model_name"]) == ("part 7", LINE)
    assert shown["model_version"] == client.get(f"/v2/models/{LINE}").json()["versions"][0]


def given(**changed: Any) -> dict[str, Any]:
    """A request of 2 x 2 pixels, changed."""
    image = {"name": "image", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [0] * 12}
    return {"inputs": [{**image, **changed}]}


WRONG: list[Any] = [
    None, [], 1, "x", {}, {"inputs": None}, {"inputs": []}, {"inputs": [None]}, {"inputs": [{}]}, {"inputs": [{"name": []}]},
    {"inputs": given()["inputs"] * 2},
    given(name="picture"), given(datatype="FP32"), given(datatype=None), given(datatype=["UINT8"]),
    given(shape=None), given(shape=[]), given(shape=[1]), given(shape=[2, 2, 2, 3]), given(shape=[1, 2, 2, 4]),
    given(shape=[1, 0, 2, 3]), given(shape=[1, -2, -2, 3]), given(shape=[1, 2.0, 2, 3]), given(shape=[1, "2", 2, 3]),
    given(shape=[1, 2**31, 2**31, 3]), given(shape=[1, 2**70, 1, 3]), given(shape=[1] * 1000), given(shape={"0": 1}),
    given(shape=[1, 3, 3, 3]),
    given(data=None), given(data=[]), given(data={}), given(data="0" * 12), given(data=[0] * 11), given(data=[256] * 12),
    given(data=[-1] * 12), given(data=[0.5] * 12), given(data=["1"] * 12), given(data=[None] * 12), given(data=[True] * 12),
    given(data=[[0], [0, 0]]), given(data=[2**70] * 12),
    given(parameters=[], data=None), given(parameters={"binary_data_size": 12}), given(parameters={"binary_data_size": -1}),
    given(parameters={"binary_data_size": "12"}),
    given(datatype="BYTES"), given(datatype="BYTES", shape=[1], data=[]), given(datatype="BYTES", shape=[1], data=["%"]),
    given(datatype="BYTES", shape=[1], data=[1]), given(datatype="BYTES", shape=[1], data=[[["x"]]]),
    given(datatype="BYTES", shape=[1], data=["bm8gaW1hZ2U="]), given(datatype="BYTES", shape=[1], data=["é"]),
    given() | {"outputs": 1}, given() | {"outputs": {"name": "score"}}, given() | {"outputs": ["score"]},
    given() | {"outputs": [{"name": "other"}]}, given() | {"outputs": [{"name": []}]}, given() | {"outputs": [{}]},
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_what_is_no_request_is_refused(client: httpx.Client, number: int) -> None:
    answer = client.post(INFER, json=WRONG[number])
    assert answer.status_code in (413, 422), (WRONG[number], answer.text)
    assert is_problem(answer, answer.status_code)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 200_000, b'{"a":' * 100_000, b"9" * 5000, b'"\xed\xa0\x80"'])
def test_what_is_no_json_is_refused(client: httpx.Client, body: bytes) -> None:
    assert is_problem(client.post(INFER, content=body), 422)


@pytest.mark.parametrize("length", ["", "-1", "1e3", "x", "999999999", "9" * 5000, "0", "+1"])
def test_a_wrong_length_of_the_header_is_refused(client: httpx.Client, length: str) -> None:
    assert is_problem(binary(client, given(), b"", length), 422)


def test_too_large_images_are_refused(client: httpx.Client) -> None:
    large = cv2.imencode(".png", np.zeros((1001, 1000), np.uint8))[1].tobytes()
    text = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(large).decode()]}
    assert is_problem(client.post(INFER, json={"inputs": [text]}), 413)
    assert is_problem(client.post(INFER, json=given(shape=[1, 1001, 1000, 3])), 413)
    assert is_problem(client.post(INFER, content=b"0" * 21_100_000), 413)


def test_only_operators_infer_and_nothing_is_stored(running: Server, client: httpx.Client) -> None:
    assert outputs(client.post(INFER, json=tensor(IMAGE)))
    assert client.get("/api/inspections").json()["items"] == []
    with running.client("viewer") as viewer:
        assert is_problem(viewer.post(INFER, json=tensor(IMAGE)), 403)
