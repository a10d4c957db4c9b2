"""Starting a deployment on a Prefect server by its bare name."""

import os
import subprocess
import sys

from tasks.errors import DeploymentError


def run_deployment_by_name(name: str, *, watch: bool) -> None:
    """``prefect deployment run NAME [--watch]``, whose plug-in of ours resolves a bare name.

    Raises DeploymentError when the run could not be started or did not complete.
    """
    command = [sys.executable, "-m", "prefect", "deployment", "run", name, *(["--watch"] if watch else [])]
    # Switched on here as well, so that the name resolves outside the checkout too.
    environment = {**os.environ, "PREFECT_PLUGINS_ENABLED": "true"}
    if subprocess.run(command, check=False, env=environment).returncode != 0:
        raise DeploymentError(
            f"{name}: the deployment's run did not start or did not complete; what Prefect said stands above"
        )
