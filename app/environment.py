"""Removes variables from the environment that our libraries would read without being asked.

The command line imports this first, because several libraries read variables while they are
imported. Somebody who sets `DEBUG`, or has a Kubernetes Service named `web`, means another program.
Only names with `DIALWATCH_` count, and those that every program obeys (proxies, certificates, `TZ`,
…). Faust's 80 names without a prefix are shut out where its app is made.
"""

import os
from collections.abc import MutableMapping

# mode and Faust read variables with these prefixes; a Service named `f-web` sets F_WEB_PORT.
_PREFIXES = ("FAUST_", "F_", "PROMETHEUS_")
_NAMES = frozenset(
    {
        "AIOKAFKA_NO_EXTENSIONS",
        "DEVLOG",
        "DJANGO_SETTINGS_MODULE",
        "NO_CYTHON",
        "TYPEXPR_DEBUG",
        "prometheus_multiproc_dir",
    }
)


def forget_foreign(environment: MutableMapping[str, str]) -> None:
    """Remove the variables that would change what our libraries do."""
    for name in [name for name in environment if name.startswith(_PREFIXES) or name in _NAMES]:
        del environment[name]


forget_foreign(os.environ)
