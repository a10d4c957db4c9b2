"""Prefect plug-in: ``prefect deployment run build-osm-france``, with the deployment's name alone.

Prefect's command line asks for ``flow/deployment``. Its plug-in hook (``setup_environment`` of the entry point group
``prefect.plugins``, switched on by ``[tool.prefect] plugins.enabled`` in pyproject.toml) runs when Prefect is imported;
there the client's look-up is wrapped so that a name without a flow is completed when exactly one deployment bears it.
Read in Prefect 3.8.8. Outside the checkout Prefect finds no such setting and the plug-in is off.
"""

import difflib
import sys
from typing import TYPE_CHECKING, Any

import httpx
from prefect.plugins import register_hook

from tasks.errors import DeploymentError
from tasks.secrets import redact

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.responses import DeploymentResponse
    from prefect.plugins import HookContext


@register_hook
def setup_environment(*, ctx: "HookContext") -> None:  # noqa: ARG001 - Prefect passes it by name
    """Let ``prefect deployment ...`` take bare names; in every other process do nothing."""
    if "deployment" in sys.argv[1:]:
        _wrap_client()


async def full_name(client: "PrefectClient", name: str) -> str:
    """``name`` as ``flow/deployment``: itself when it has that form, else completed by asking the server.

    Raises DeploymentError when no deployment or more than one is called ``name``; the message lists the nearest
    names, or the full names to choose from.
    """
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName

    if name.count("/") == 1:
        return name
    same = DeploymentFilter(name=DeploymentFilterName(any_=[name]))
    found = await _full_names(client, await client.read_deployments(deployment_filter=same))
    if not found:
        raise DeploymentError(await _describe_missing(client, name))
    if len(found) > 1:
        listed = _listed(sorted(found))
        raise DeploymentError(f"{len(found)} deployments are called {name!r}. Name the flow too:\n{listed}")
    return found[0]


async def _describe_missing(client: "PrefectClient", name: str) -> str:
    deployments: list[DeploymentResponse] = []
    while page := await client.read_deployments(offset=len(deployments)):
        deployments += page
    if not deployments:
        return (
            f"No deployment is called {name!r}: the server at {redact(str(client.api_url))} has none. "
            "Create them with `prefect --no-prompt deploy --all` from the checkout."
        )
    near = difflib.get_close_matches(name, {d.name for d in deployments}, n=5)
    if not near:
        return f"No deployment is called {name!r}. `prefect deployment ls` lists the {len(deployments)} there are."
    nearest_first = sorted((d for d in deployments if d.name in near), key=lambda d: near.index(d.name))
    listed = _listed(await _full_names(client, nearest_first))
    return f"No deployment is called {name!r}. The nearest names are:\n{listed}"


async def _full_names(client: "PrefectClient", deployments: "list[DeploymentResponse]") -> list[str]:
    return [f"{(await client.read_flow(d.flow_id)).name}/{d.name}" for d in deployments]


def _listed(names: list[str]) -> str:
    return "\n".join(f"  {name}" for name in names)


def _wrap_client() -> None:
    from prefect.client.orchestration import PrefectClient

    read = PrefectClient.read_deployment_by_name

    async def read_deployment_by_name(client: Any, name: str) -> "DeploymentResponse":
        try:
            return await read(client, await full_name(client, name))
        except DeploymentError as error:
            # Prefect's command line prints a traceback for every other exception.
            raise SystemExit(str(error)) from None
        except httpx.ConnectError:
            raise SystemExit(
                f"No Prefect server answers at {redact(str(client.api_url))}. Start one with `prefect server start`, "
                "or name another in PREFECT_API_URL."
            ) from None

    PrefectClient.read_deployment_by_name = read_deployment_by_name  # type: ignore[assignment, method-assign]
