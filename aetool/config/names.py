"""Names that a user gives to runs, and that become names of folders."""

LONGEST = {"name": 200, "model.name": 80, "dataset.name": 80, "probe.name": 80}  # bytes of a folder's name, or a part
RESERVED = ("sweep-", "labels-")  # what other folders in `output` start with
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}  # of Windows


def misnamed(name: str, longest: int) -> str | None:
    """Why a folder cannot have this name, or this as a part of its name."""
    if not name.isprintable() or name.startswith(".") or "/" in name or "\\" in name or name != name.strip(" "):
        return "expected one folder name: no slashes, no control characters, not starting with a dot or a space"
    if len(name.encode()) > longest:
        return f"too long for the name of a folder, at most {longest} bytes"
    if name.startswith(RESERVED) or name.partition(".")[0].lower() in DEVICES:
        return "reserved for another use; choose another name"
    return None
