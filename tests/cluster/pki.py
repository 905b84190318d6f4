"""Whom the parts of a cluster trust: one authority, a certificate for each, and the files that name both."""

import subprocess
from pathlib import Path

import yaml

# What kubectl calls the cluster.
CONTEXT = "test"
CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class Authority:
    """An authority of a few days, in a folder of its own.

    Attributes:
        certificate: what everyone trusts.
        tokens: the key that signs the tokens of service accounts.
    """

    def __init__(self, folder: Path, server: str) -> None:
        folder.mkdir()
        self._folder = folder
        self._server = server
        self.certificate = folder / "ca.crt"
        self._key = folder / "ca.key"
        self.tokens = folder / "tokens.key"
        itself = ("-days", "7", "-subj", "/CN=cluster", "-keyout", self._key, "-out", self.certificate)
        _openssl("req", "-x509", *CURVE, *itself)
        _openssl("genrsa", "-out", self.tokens, "2048")

    def issue(self, name: str, subject: str, *names: str) -> tuple[Path, Path]:
        """Return certificate and key: of a server if it has names (`IP:…`, `DNS:…`), else of a client."""
        certificate, key, request = (self._folder / f"{name}.{ending}" for ending in ("crt", "key", "csr"))
        extensions = self._folder / f"{name}.ext"
        use = f"serverAuth\nsubjectAltName={','.join(names)}" if names else "clientAuth"
        extensions.write_text(f"extendedKeyUsage={use}\n", encoding="utf-8")
        _openssl("req", *CURVE, "-subj", subject, "-keyout", key, "-out", request)
        signer = ("-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial", "-days", "7")
        _openssl("x509", "-req", "-in", request, *signer, "-extfile", extensions, "-out", certificate)
        return certificate, key

    def kubeconfig(self, user: str, group: str = "") -> Path:
        """Return a file by which a client is this user, of this group, to the API server."""
        certificate, key = self.issue(user.replace(":", "-"), f"{f'/O={group}' if group else ''}/CN={user}")
        path = certificate.with_suffix(".yaml")
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": CONTEXT, "cluster": {"server": self._server, "certificate-authority": str(self.certificate)}}
            ],
            "users": [{"name": user, "user": {"client-certificate": str(certificate), "client-key": str(key)}}],
            "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": user}}],
            "current-context": CONTEXT,
        }
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return path


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)
