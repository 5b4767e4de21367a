"""Health, status and models as the catalog has them."""

from __future__ import annotations

from catalog.models import LoadedModel, ModuleStatus, SessionStatus, Status
from tests.api.conftest import Client, ScriptedCatalog

MODULE = ModuleStatus(
    name="bench",
    address="tcp://bench:10001",
    simulated=False,
    connected=True,
    version="v1.6",
    unit_versions=("llm-1.8",),
    temperature=52.5,
    cmm_total_kib=3145728,
    cmm_used_kib=2202010,
    cmm_remain_kib=943718,
    sessions=(SessionStatus("llm.1002", "qwen-0.5b", "idle", 3.14159, False),),
    queue=1,
)
LOADED = (LoadedModel("qwen-0.5b", 1704110400.9, 2202010, 4096),)


async def test_health_has_its_exact_shape(client: Client, catalog: ScriptedCatalog) -> None:
    catalog.state = Status(True, (MODULE,), LOADED, 3, 3)
    response = await client.get("/health")
    assert response.status == 200
    body = await response.json()
    assert isinstance(body.pop("timestamp"), int)
    assert body == {
        "status": "healthy",
        "manager_initialized": True,
        "engines": {"stackflow": {"status": "healthy", "loaded_models": 1, "simulated": False}},
        "models": 1,
        "issues": [],
    }


async def test_health_tells_degraded_from_unhealthy(client: Client, catalog: ScriptedCatalog) -> None:
    lost = ModuleStatus("other", "tcp://other:10001", False, False, error="no route to host")
    silent = ModuleStatus("bench", "tcp://bench:10001", False, True, silent_units=("tts",))
    for status, expected, code in (
        (Status(True, (MODULE,), (), 3, 3, issues=("unit tts is silent",)), "degraded", 200),
        (Status(True, (silent,), (), 3, 3), "degraded", 200),
        (Status(True, (MODULE, lost), (), 3, 3), "degraded", 200),
        (Status(True, (lost,), (), 3, 3), "unhealthy", 503),
        (Status(False, (), (), 0, 3), "unhealthy", 503),
    ):
        catalog.state = status
        response = await client.get("/health")
        assert (response.status, (await response.json())["status"]) == (code, expected)
        assert (await client.get("/health/live")).status == 200
    catalog.state = Status(True, (MODULE, lost), LOADED, 3, 3)
    engines = (await (await client.get("/health")).json())["engines"]
    assert engines["bench"]["loaded_models"] == 1
    assert engines["other"] == {
        "status": "unhealthy",
        "loaded_models": 0,
        "simulated": False,
        "error": "no route to host",
    }


async def test_status_has_its_exact_shape(client: Client, catalog: ScriptedCatalog) -> None:
    catalog.state = Status(True, (MODULE,), LOADED, 3, 3)
    body = await (await client.get("/v1/system/status")).json()
    assert body == {
        "initialized": True,
        "total_engines": 1,
        "registered_models": 3,
        "loaded_models": 1,
        "max_concurrent_models": 3,
        "models": [
            {
                "name": "qwen-0.5b",
                "engine_type": "stackflow",
                "status": "loaded",
                "loaded_at": "2024-01-01T12:00:00",
                "memory_usage": "2.1GB",
                "context_length": 4096,
            }
        ],
        "engines": {
            "stackflow": {
                "status": "healthy",
                "memory_usage": "2.1GB",
                "name": "bench",
                "address": "tcp://bench:10001",
                "simulated": False,
                "connected": True,
                "error": None,
                "version": "v1.6",
                "unit_versions": ["llm-1.8"],
                "temperature": 52.5,
                "cmm": {"total_kib": 3145728, "used_kib": 2202010, "remain_kib": 943718},
                "silent_units": [],
                "sessions": [
                    {
                        "work_id": "llm.1002",
                        "model": "qwen-0.5b",
                        "state": "idle",
                        "idle_seconds": 3.1,
                        "leased": False,
                    }
                ],
                "queue": 1,
            }
        },
    }


async def test_model_object_has_openais_and_our_own_fields(client: Client) -> None:
    for path in ("/v1/models/team/qwen:small", "/v1/models/team%2Fqwen%3Asmall"):
        body = await (await client.get(path)).json()
        assert body == {
            "id": "team/qwen:small",
            "object": "model",
            "created": 1700000000,
            "owned_by": "local",
            "permission": [],
            "root": "qwen",
            "parent": None,
            "ready": True,
            "capabilities": ["chat", "completion"],
            "context_window": None,
            "input_window": None,
            "memory_kib": None,
            "load_seconds": None,
            "state": "unloaded",
            "error": None,
            "module": None,
            "description": None,
            "token_count": "estimate",
        }
    listed = await (await client.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["qwen", "team/qwen:small", "voice"]
