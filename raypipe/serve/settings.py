"""Settings of `raypipe serve`, the same for one process, for Ray Serve and for `serve deploy`."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated

from cyclopts import Group, Parameter
from pydantic import BaseModel, ConfigDict, Field

from raypipe.settings import Names

LIMITS = Parameter(group=Group("Limits", sort_key=10))
ENCODER = Parameter(group=Group("Encoder", sort_key=20))
CLUSTER = Parameter(group=Group("On a cluster", sort_key=30))
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@Parameter(name="*")
class ServeOptions(BaseModel):
    """How an atlas is served, but for which."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field(
        default="127.0.0.1", min_length=1, description="Address to listen on. Beyond this machine only with tokens."
    )
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 for any that is free.")
    token_file: str | None = Field(
        default=None,
        description="File with bearer tokens, one a line, of which each opens everything; read again when it changes. "
        "Without it nobody is asked for one.",
    )
    allowed_hosts: Names = Field(
        default=[],
        description="Names under which the server may be asked (the Host header), * for all. By default those of this "
        "machine's loopback; where it listens beyond that, all.",
    )
    cors_origins: Names = Field(
        default=[], description="Origins of web pages that may ask, such as https://example.org. By default none."
    )
    model: str | None = Field(
        default=None, description="Checkpoint for queries; by default the one that made the vectors."
    )
    device: str | None = Field(default=None, description="Where queries are embedded; CUDA where there is one.")
    allow_stale: bool = Field(default=False, description="Search an index that is older than the embeddings.")
    log_sequences: bool = Field(default=False, description="Write the sequences and SQL of requests into the log.")
    watch_seconds: float = Field(
        default=1.0, gt=0, description="Every so often it is looked whether a new index or annotations stand there."
    )
    drain_seconds: float = Field(
        default=30.0, ge=0, description="On SIGTERM requests in flight may take so long to finish."
    )

    max_body_mib: Annotated[float, LIMITS] = Field(default=16, gt=0, description="Of a request, in MiB.")
    max_length: Annotated[int, LIMITS] = Field(default=20_000, ge=1, description="Nucleotides of one sequence.")
    max_nucleotides: Annotated[int, LIMITS] = Field(
        default=500_000, ge=1, description="Nucleotides of all sequences of a request."
    )
    max_queries: Annotated[int, LIMITS] = Field(
        default=1024, ge=1, description="Sequences, ids or vectors of a request."
    )
    max_k: Annotated[int, LIMITS] = Field(default=1000, ge=1, description="Hits of one query.")
    max_hits: Annotated[int, LIMITS] = Field(
        default=200_000, ge=1, description="Hits of a request: its queries times k."
    )
    max_rows: Annotated[int, LIMITS] = Field(default=10_000, ge=1, description="Rows of an answer to SQL.")
    sql: Annotated[bool, LIMITS] = Field(default=True, description="Answer SQL.")
    sql_seconds: Annotated[float, LIMITS] = Field(default=10.0, gt=0, description="Of one SQL query.")
    sql_memory: Annotated[str, LIMITS] = Field(default="1GB", description="Memory of one SQL query, such as 500MB.")
    sql_workers: Annotated[int, LIMITS] = Field(default=2, ge=1, description="SQL queries at a time.")
    request_seconds: Annotated[float, LIMITS] = Field(
        default=60.0, gt=0, description="After which a request is given up, reading it included."
    )
    max_in_flight: Annotated[int, LIMITS] = Field(
        default=256, ge=1, description="Requests at a time; more are asked to come again (429)."
    )

    batch_tokens: Annotated[int, ENCODER] = Field(
        default=8192, ge=1, description="Tokens of one batch of queries, of as many requests as wait."
    )
    batch_wait_ms: Annotated[float, ENCODER] = Field(
        default=2.0, ge=0, description="A batch that is not full waits so long for company, where others are about."
    )
    max_queued_tokens: Annotated[int, ENCODER] = Field(
        default=1_000_000, ge=1, description="Tokens that may wait for the encoder; more are asked to come again (429)."
    )

    ray: Annotated[bool, CLUSTER] = Field(
        default=False, description="Serve by Ray Serve instead of one process: replicas, shards, several machines."
    )
    replicas: Annotated[int, CLUSTER] = Field(default=1, ge=1, description="With --ray: copies of the server.")
    shards: Annotated[int | None, CLUSTER] = Field(
        default=None, ge=1, description="Ray actors that share out the index, for each replica. By default none."
    )
    cpus_per_replica: Annotated[float, CLUSTER] = Field(default=1.0, gt=0, description="With --ray: CPUs of each.")
    gpus_per_replica: Annotated[float, CLUSTER] = Field(default=0.0, ge=0, description="With --ray: GPUs of each.")
    address: Annotated[str | None, CLUSTER] = Field(
        default=None, description="Ray cluster. By default $RAY_ADDRESS, else Ray starts here and ends with the server."
    )


class ServeSettings(ServeOptions):
    """How an atlas is served, and which."""

    atlas: str = Field(description="Folder of the atlas, or its URI.")

    @property
    def hosts(self) -> list[str]:
        """Names under which the server may be asked; ["*"] for any."""
        if self.allowed_hosts:
            return list(self.allowed_hosts)
        return list(dict.fromkeys((*LOOPBACK, self.host))) if self.local else ["*"]

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return self.host in LOOPBACK or ip_address(self.host).is_loopback
        except ValueError:  # a name, which may be anybody's
            return False
