"""Starting a deployment on a Prefect server by its bare name."""

import os
import subprocess
import sys

from tasks.errors import DeploymentError


def run_deployment_by_name(name: str, *, watch: bool) -> None:
    """``prefect deployment run NAME [--watch]``, whose plug-in of ours resolves a bare name.

    Raises DeploymentError when no server is configured, or the run could not be started or did not complete.
    """
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():  # Prefect would start a server of its own, where no worker is
        raise DeploymentError(
            f"{name}: no Prefect server is configured; start one (prefect server start) and name it in PREFECT_API_URL"
        )
    command = [sys.executable, "-m", "prefect", "deployment", "run", name, *(["--watch"] if watch else [])]
    # Switched on here as well, so that the name resolves outside the checkout too.
    environment = {**os.environ, "PREFECT_PLUGINS_ENABLED": "true"}
    if subprocess.run(command, check=False, env=environment).returncode != 0:
        raise DeploymentError(
            f"{name}: the deployment's run did not start or did not complete; what Prefect said stands above"
        )
