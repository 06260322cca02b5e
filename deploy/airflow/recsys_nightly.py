"""The night as an Airflow DAG. Set the Airflow variable `recsys_home` (default /srv/recsys).

Airflow's catch-up is off: the command itself takes in everything that came since the last night.
"""

from datetime import UTC, datetime, timedelta

from airflow import DAG

try:
    from airflow.providers.standard.operators.bash import BashOperator
except ImportError:  # Airflow 2
    from airflow.operators.bash import BashOperator

with DAG(
    dag_id="recsys_nightly",
    schedule="30 2 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["recsys"],
):
    BashOperator(
        task_id="nightly",
        cwd="{{ var.value.get('recsys_home', '/srv/recsys') }}",
        bash_command="exec .venv/bin/recsys nightly -c recsys.yaml",
        # 4: the gate refused the candidate and the champion stays; shown as skipped, not failed.
        skip_on_exit_code=4,
        retries=2,
        retry_delay=timedelta(minutes=15),
        execution_timeout=timedelta(hours=6),
    )
