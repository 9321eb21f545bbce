"""What Envoy is told: its bootstrap, the routes that share the traffic, and how both are read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]

CHAMPION, CHALLENGER, SHADOW, FALLBACK = "champion", "challenger", "shadow", "challenger-or-champion"
ROUTES = "slipway"
SHARE_KEY, SHADOW_KEY = "slipway.challenger_share", "slipway.shadow"
PER_PERCENT = 10_000  # Envoy's finest fraction is a millionth
# A request that names a version goes where that version is: with the champion. So does everything but inference.
INFER = r"/v2/models/[^/?]+/infer"

BODY_BYTES = 64 * 2**20
HEAP_BYTES = 2 * 2**30
CONNECTIONS = 10_000
AT_ONCE = 1024
MIRRORED_AT_ONCE = 16
ANSWER_SECONDS = 60
PATIENCE_SECONDS = 10
UPSTREAM_IDLE_SECONDS = 4  # below the 5 after which a server closes: no request meets a connection that just closes

_TYPE = "type.googleapis.com/envoy"
# Envoy obeys headers of internal clients that change time-outs and retries, and without this takes local ones for such.
_NOBODY = {"address_prefix": "255.255.255.255", "prefix_len": 32}


@dataclass(frozen=True)
class Places:
    """Where Envoy listens, whom it asks, and its files. Servers and admin are on 127.0.0.1."""

    host: str
    port: int
    admin_port: int
    champion_port: int
    challenger_port: int
    folder: Path

    @property
    def bootstrap(self) -> Path:
        """The configuration that Envoy starts with."""
        return self.folder / "envoy.json"

    @property
    def routes(self) -> Path:
        """The watched file of routes, alone in its directory."""
        return routes_file(self.folder)

    @property
    def access_log(self) -> Path:
        """One line per inference request that was shared."""
        return self.folder / "access.log"

    @property
    def own_log(self) -> Path:
        """Envoy's warnings."""
        return self.folder / "envoy.log"


def routes_file(folder: Path) -> Path:
    """The watched file of routes of the gateway in ``folder``."""
    return folder / "routes" / "routes.json"


def bootstrap(places: Places) -> Json:
    """Everything that stays as it is while Envoy runs."""
    return {
        "node": {"id": "slipway", "cluster": "slipway"},
        "admin": {"address": _address("127.0.0.1", places.admin_port)},
        "layered_runtime": {"layers": [{"name": "static", "static_layer": {}}, {"name": "admin", "admin_layer": {}}]},
        "overload_manager": _overload(),
        "static_resources": {
            "listeners": [_listener(places)],
            "clusters": [
                _cluster(CHAMPION, places.champion_port),
                _cluster(CHALLENGER, places.challenger_port) | _EJECTED | _UNHEALTHY_GET_NOTHING,
                _cluster(SHADOW, places.challenger_port, MIRRORED_AT_ONCE) | _UNHEALTHY_GET_NOTHING,
                _fallback(),
            ],
        },
    }


def routes(percent: float, shadow: bool) -> Json:
    """Routes that send ``percent`` of the inference to the challenger, and mirror the rest to it with ``shadow``."""
    infer = {
        "safe_regex": {"regex": INFER},
        "headers": [{"name": ":method", "string_match": {"exact": "POST"}}],
    }
    fraction = {"numerator": round(percent * PER_PERCENT), "denominator": "MILLION"}
    mirrored = {"numerator": 100 if shadow else 0, "denominator": "HUNDRED"}
    mirror = {
        "cluster": SHADOW,
        "runtime_fraction": {"default_value": mirrored, "runtime_key": SHADOW_KEY},
        "disable_shadow_host_suffix_append": True,
    }
    to_champion = {"cluster": CHAMPION, "timeout": f"{ANSWER_SECONDS}s", "retry_policy": _retried(5, "0.05s", "2s")}
    found = [
        {
            "name": CHALLENGER,
            "match": infer | {"runtime_fraction": {"default_value": fraction, "runtime_key": SHARE_KEY}},
            "route": {
                "cluster": FALLBACK,
                "timeout": f"{ANSWER_SECONDS}s",
                "retry_policy": _retried_elsewhere(),
                # Where the challenger is slow, the champion is asked too, and the first answer is taken.
                "hedge_policy": {"hedge_on_per_try_timeout": True},
            },
        },
        {"name": CHAMPION, "match": infer, "route": to_champion | {"request_mirror_policies": [mirror]}},
        {"name": "other", "match": {"prefix": "/"}, "route": to_champion},
    ]
    resource = {
        "@type": f"{_TYPE}.config.route.v3.RouteConfiguration",
        "name": ROUTES,
        "virtual_hosts": [
            {"name": "all", "domains": ["*"], "routes": found, "request_body_buffer_limit": str(BODY_BYTES)}
        ],
    }
    return {"resources": [resource]}


def state_of(resource: Mapping[str, Any]) -> tuple[float, bool]:
    """The challenger's share in percent and whether there is a shadow, as a route configuration tells them.

    Raises:
        KeyError, IndexError, TypeError, ValueError: it is none of ours.
    """
    challenger, champion, _ = resource["virtual_hosts"][0]["routes"]
    share = challenger["match"]["runtime_fraction"]["default_value"].get("numerator", 0)
    (mirror,) = champion["route"]["request_mirror_policies"]
    return int(share) / PER_PERCENT, bool(mirror["runtime_fraction"]["default_value"].get("numerator", 0))


def _listener(places: Places) -> Json:
    manager = {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "use_remote_address": True,
        "internal_address_config": {"cidr_ranges": [_NOBODY]},
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        "request_id_extension": {
            "typed_config": {
                "@type": f"{_TYPE}.extensions.request_id.uuid.v3.UuidRequestIdConfig",
                "pack_trace_reason": False,  # a client's id stays as it is
            }
        },
        "server_header_transformation": "PASS_THROUGH",
        "normalize_path": True,
        "request_headers_timeout": "10s",
        "request_timeout": f"{ANSWER_SECONDS}s",
        "stream_idle_timeout": f"{2 * ANSWER_SECONDS}s",
        "common_http_protocol_options": {"idle_timeout": "300s"},
        "access_log": [_access_log(places)],
        "rds": {
            "route_config_name": ROUTES,
            "config_source": {
                "resource_api_version": "V3",
                "path_config_source": {
                    "path": str(places.routes),
                    "watched_directory": {"path": str(places.routes.parent)},
                },
            },
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": f"{_TYPE}.extensions.filters.http.router.v3.Router",
                    "suppress_envoy_headers": True,
                },
            }
        ],
    }
    network_filter = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    return {
        "name": "gateway",
        "address": _address(places.host, places.port),
        "enable_reuse_port": False,  # with it, two gateways could share a port without noticing
        "filter_chains": [{"filters": [network_filter]}],
    }


def _access_log(places: Places) -> Json:
    # In JSON a start time would be text; only an expression becomes a number.
    start = "%TYPED_CEL(double(int(request.time)) + double(request.time.getMilliseconds()) / 1000.0)%"
    line = {
        "start_s": start,
        "request_id": "%REQ(X-REQUEST-ID)%",
        "asked": "%ROUTE_NAME%",
        "answered": "%UPSTREAM_HOST_NAME%",
        "code": "%RESPONSE_CODE%",
        "upstream_us": "%COMMON_DURATION(US_TX_BEG:US_RX_BEG:us)%",
        "total_us": "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
        "flags": "%RESPONSE_FLAGS%",
    }
    shared = [
        {"header_filter": {"header": {"name": ":path", "string_match": {"safe_regex": {"regex": rf"{INFER}(\?.*)?"}}}}},
        {"header_filter": {"header": {"name": ":method", "string_match": {"exact": "POST"}}}},
    ]
    return {
        "name": "envoy.access_loggers.file",
        "filter": {"and_filter": {"filters": shared}},
        "typed_config": {
            "@type": f"{_TYPE}.extensions.access_loggers.file.v3.FileAccessLog",
            "path": str(places.access_log),
            "log_format": {"json_format": line},
        },
    }


def _cluster(name: str, port: int, at_once: int = AT_ONCE) -> Json:
    endpoint = {"hostname": name, "address": _address("127.0.0.1", port)}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "2s",
        "circuit_breakers": _at_once(at_once),
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"idle_timeout": f"{UPSTREAM_IDLE_SECONDS}s"},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
        "health_checks": [
            {
                "http_health_check": {"path": "/v2/health/ready", "host": name},
                "timeout": "3s",
                "interval": "1s",
                "no_traffic_interval": "1s",
                "unhealthy_threshold": 3,
                "healthy_threshold": 1,
            }
        ],
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
    }


# Only the challenger: in the champion's place nobody could answer.
_EJECTED: Json = {
    "outlier_detection": {
        "consecutive_5xx": 5,
        "interval": "1s",
        "base_ejection_time": "10s",
        "max_ejection_time": "60s",
        "max_ejection_percent": 100,
    },
}
_UNHEALTHY_GET_NOTHING: Json = {"common_lb_config": {"healthy_panic_threshold": {"value": 0}}}


def _fallback() -> Json:
    """The challenger as long as it is well, else the champion."""
    return {
        "name": FALLBACK,
        "connect_timeout": "2s",
        "lb_policy": "CLUSTER_PROVIDED",
        "circuit_breakers": _at_once(AT_ONCE),
        "cluster_type": {
            "name": "envoy.clusters.aggregate",
            "typed_config": {
                "@type": f"{_TYPE}.extensions.clusters.aggregate.v3.ClusterConfig",
                "clusters": [CHALLENGER, CHAMPION],
            },
        },
    }


def _at_once(requests: int) -> Json:
    # Three retries at once, Envoy's default, would fail most of what a killed challenger was asked.
    bounds = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests", "max_retries"), requests)
    return {"thresholds": [bounds]}


def _retried(times: int, first: str, longest: str) -> Json:
    """Asked again where the answer never began: inference changes nothing, so that asking twice does no harm."""
    return {
        "retry_on": "connect-failure,refused-stream,reset",
        "num_retries": times,
        "retry_back_off": {"base_interval": first, "max_interval": longest},
    }


def _retried_elsewhere() -> Json:
    """Asked again at once, and of the champion: also where the challenger is slow, or not ready."""
    return _retried(3, "0.001s", "0.05s") | {
        "retry_on": "connect-failure,refused-stream,reset,retriable-status-codes",
        "retriable_status_codes": [503],
        "per_try_timeout": f"{PATIENCE_SECONDS}s",
        "retry_priority": {
            "name": "envoy.retry_priorities.previous_priorities",
            "typed_config": {
                "@type": f"{_TYPE}.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
                "update_frequency": 1,
            },
        },
    }


def _overload() -> Json:
    heap = {"@type": f"{_TYPE}.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig"}
    connections = {
        "@type": f"{_TYPE}.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
    }
    heap_name, connections_name = (
        "envoy.resource_monitors.fixed_heap",
        "envoy.resource_monitors.global_downstream_max_connections",
    )
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            {"name": heap_name, "typed_config": heap | {"max_heap_size_bytes": str(HEAP_BYTES)}},
            {
                "name": connections_name,
                "typed_config": connections | {"max_active_downstream_connections": CONNECTIONS},
            },
        ],
        "actions": [
            {
                "name": "envoy.overload_actions.stop_accepting_requests",
                "triggers": [{"name": heap_name, "threshold": {"value": 0.95}}],
            }
        ],
    }


def _address(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}
