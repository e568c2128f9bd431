"""Write the lock file anew, for another version of Kafka.

    python -m app.local.lock_jars > app/local/jars.lock

Resolves Kafka's dependencies with jgo, downloads every jar and prints its SHA-256. A developer's
tool: nothing else imports it, and the local stack only ever obeys the file.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from jgo.maven import MavenContext

from app.local.jars import cache_dir

KAFKA = "4.3.1"


def lock_lines(repository_cache: Path) -> Iterator[str]:
    """One line for each jar: SHA-256, size, group:artifact:version."""
    context = MavenContext(repo_cache=repository_cache)
    roots = [
        context.create_dependency(f"org.apache.kafka:{name}:{KAFKA}")
        for name in ("kafka_2.13", "kafka-server")
    ]
    direct, transitive = context.resolver.resolve(roots)
    artifacts = [dependency.artifact for dependency in (*direct, *transitive)]
    # Kafka's own distribution adds the binding that its log goes through. Resolved together
    # with Kafka, its dependency management would pull other jars back to older versions.
    log4j = next(one.version for one in artifacts if one.artifactId == "log4j-core")
    binding = context.project("org.apache.logging.log4j", "log4j-slf4j-impl").at_version(log4j)
    artifacts.append(binding.artifact())

    yield "# SHA-256, size in bytes, coordinate. Made by `python -m app.local.lock_jars`."
    for artifact in artifacts:
        content = Path(artifact.resolve()).read_bytes()
        coordinate = f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}"
        yield f"{hashlib.sha256(content).hexdigest()} {len(content)} {coordinate}"


if __name__ == "__main__":
    print("\n".join(lock_lines(cache_dir() / "maven")))
