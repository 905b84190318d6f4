"""`make release`: write which image and version an environment runs. Nothing else writes that file."""

import re
import sys

from tools.overlay import OVERLAYS, VERSION_LABEL, environments

DIGEST = r"sha256:[0-9a-f]{64}"
VERSION = r"\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?"


def problems(environment: str, digest: str, version: str) -> list[str]:
    """What is wrong with the request."""
    found = []
    if environment not in environments():
        found.append(f"ENV is {environment!r}: it is one of {', '.join(environments())}.")
    if not re.fullmatch(DIGEST, digest):
        found.append(f"DIGEST is {digest!r}: it is sha256: and 64 hexadecimal digits, as the registry gave it.")
    if not re.fullmatch(VERSION, version):
        found.append(f"VERSION is {version!r}: it is like 1.2.3, as app/service.toml had it when the image was built.")
    return found


def rewritten(text: str, digest: str, version: str) -> str:
    """The release file with another image and version, and all else as it was."""
    text = re.sub(r"^( +)(?:newTag: .*|digest: .*)$", rf"\g<1>digest: {digest}", text, flags=re.MULTILINE)
    return re.sub(rf"^( +{re.escape(VERSION_LABEL)}:) .*$", rf'\g<1> "{version}"', text, flags=re.MULTILINE)


def main(arguments: list[str]) -> int:
    """Write the release file of an environment; the exit code of the process."""
    environment, digest, version = arguments
    if found := problems(environment, digest, version):
        sys.stderr.write("Nothing was written.\n" + "".join(f"- {problem}\n" for problem in found))
        return 1
    path = OVERLAYS / environment / "release" / "kustomization.yaml"
    text = rewritten(path.read_text(encoding="utf-8"), digest, version)
    if digest not in text or f'"{version}"' not in text:
        sys.stderr.write(f"{path} has no line for a digest, or none for a version: restore it from Git.\n")
        return 1
    path.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{environment} is to run {version}, {digest}: commit k8s/overlays/{environment}/release\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
