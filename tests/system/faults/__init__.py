"""Rigs that break what a run depends on: servers, networks, disks and the run's own processes.

`stores`: what an MLflow database holds, read by SQL. `servers`: real `mlflow server` and PostgreSQL processes.
`proxy`: a server's bad days. `network`: a cable that can be cut. `disk`: a small file system. `training`: runs in
processes of their own, which can be killed at a step. `fixtures`: the above for pytest.
"""
