"""A process that vLLM spawns for its engine logs as the server does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from server.settings import EngineSettings, ServerSettings, Settings
from server.vllm_start import _logging_config

_SPAWNED = """
import sys
from vllm.config.logging import LoggingConfig
from vllm.logger import configure_logging, init_logger
configure_logging(LoggingConfig(configure_logging=True, pylogging_config_file=sys.argv[1]))
logger = init_logger("vllm.v1.engine.core")
logger.debug("too much")
logger.info("started")
try:
    raise ValueError("secret")
except ValueError:
    logger.exception("EngineCore encountered a fatal error.")
try:
    raise ValueError("too little memory")
except ValueError:
    logger.exception("EngineCore failed to start.")
"""


def test_a_spawned_engine_reads_the_same_form_from_a_file(tmp_path: Path):
    settings = Settings(server=ServerSettings(log_level="debug", log_format="json"))
    config = _logging_config(settings, tmp_path)
    assert config.log_level == "INFO"
    done = subprocess.run(
        [sys.executable, "-c", _SPAWNED, str(config.pylogging_config_file)],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    started, fatal, failed = [line for line in lines if line["logger"] == "vllm.v1.engine.core"]
    assert (started["level"], started["message"]) == ("INFO", "started")
    assert fatal["error"] == "ValueError" and "reason" not in fatal
    assert failed["reason"] == "too little memory"
    assert "secret" not in done.stdout + done.stderr and "too much" not in done.stderr


@pytest.mark.parametrize(("level", "expected"), [("debug", "INFO"), ("error", "ERROR")])
def test_a_process_of_ray_has_vllms_own_form(level: str, expected: str, tmp_path: Path):
    engine = EngineSettings(distributed_executor_backend="ray")
    settings = Settings(server=ServerSettings(log_level=level), engine=engine)
    config = _logging_config(settings, tmp_path)
    assert config.log_level == expected
    assert config.pylogging_config_file is None
    assert list(tmp_path.iterdir()) == []
