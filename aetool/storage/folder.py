"""The JSON files of a run folder; light to import."""

from pathlib import Path

from aetool.files import JsonObject, read_json

CONFIG, STATUS, METRICS, LOG, LOCK = "config.json", "status.json", "metrics.json", "aetool.log", ".lock"


class RunFolder:
    """Reads the JSON files of a run folder, whatever wrote them."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    @property
    def saved(self) -> JsonObject:
        """config.json: `config`, `identity`, `id`, the `command` that started the run, and the version of `aetool`."""
        return read_json(self.directory / CONFIG) or {}

    @property
    def status(self) -> JsonObject:
        """state (see report.rows.STATES), stage, step, warnings, …; empty before the first claim."""
        return read_json(self.directory / STATUS) or {}

    @property
    def warnings(self) -> list[str]:
        return list(self.status.get("warnings", []))

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """The final metrics of each stage."""
        return read_json(self.directory / METRICS) or {}
