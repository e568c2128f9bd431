"""What libraries would read from the environment behind our back is taken out of it.

The command line imports this before them: several read while they are imported. Whoever sets
`DEBUG`, or runs a Kubernetes Service named `web`, means another program than this one; only what
begins with `DIALWATCH_`, and what every program heeds (proxies, certificates, `TZ`, …), counts.
Faust's 80 names without a prefix are shut out where its app is made.
"""

import os
from collections.abc import MutableMapping

# mode and Faust take any of theirs with these prefixes; a Service named `f-web` sets F_WEB_PORT.
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
    """Remove the variables that change what our libraries do."""
    for name in [name for name in environment if name.startswith(_PREFIXES) or name in _NAMES]:
        del environment[name]


forget_foreign(os.environ)
