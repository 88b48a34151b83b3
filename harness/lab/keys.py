"""The keys of a run: the operator's, the FT hosts' own for the storage host, and a host key for each host."""

from __future__ import annotations

import io
from dataclasses import dataclass

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass(frozen=True)
class SshKey:
    """One ed25519 key: the private half in OpenSSH's format, the public half as an authorized_keys line."""

    private: bytes
    public: str

    @classmethod
    def generate(cls) -> SshKey:
        """Draw a new key."""
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        return cls(private, public.decode())

    def as_paramiko(self) -> paramiko.PKey:
        """The key as paramiko wants it."""
        return paramiko.Ed25519Key.from_private_key(io.StringIO(self.private.decode()))
