"""`make release`: write which image and version an environment runs. Nothing else writes that file.

It is written as a whole, from the facts of this tree: updates of the template leave it alone, so a new name of the
service or of its images gets there by the next release.
"""

import re
import sys

from tools.overlay import DIGEST_DIGITS, DIGEST_LABEL, IMAGE_REPOSITORY, OVERLAYS, SERVICE, VERSION_LABEL, environments

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


def written(environment: str, digest: str, version: str) -> str:
    """The release file."""
    command = f"make release ENV={environment} DIGEST=sha256:… VERSION=…"
    return f"""\
# The version that {environment} runs. Only a release writes this file: `{command}`.
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
images:
  - name: {SERVICE}
    newName: {IMAGE_REPOSITORY}
    digest: {digest}
labels:
  - includeTemplates: true
    pairs:
      {VERSION_LABEL}: "{version}"
      {DIGEST_LABEL}: "{digest.removeprefix("sha256:")[:DIGEST_DIGITS]}"
"""


def main(arguments: list[str]) -> int:
    """Write the release file of an environment; the exit code of the process."""
    environment, digest, version = arguments
    if found := problems(environment, digest, version):
        sys.stderr.write("Nothing was written.\n" + "".join(f"- {problem}\n" for problem in found))
        return 1
    path = OVERLAYS / environment / "release" / "kustomization.yaml"
    path.write_text(written(environment, digest, version), encoding="utf-8", newline="\n")
    sys.stdout.write(f"{environment} is to run {version}, {digest}: commit k8s/overlays/{environment}/release\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
