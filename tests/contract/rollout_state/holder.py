"""A controller as a process: it takes the lease on a name, tells its token, and renews until its stdin is closed."""

from __future__ import annotations

import select
import sys

from slipway.errors import SlipwayError
from slipway.rollout.store.lease import this_process
from slipway.rollout.store.rollouts import RolloutStore


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(url: str, name: str, seconds: float) -> None:
    store = RolloutStore(url)
    sys.stdin.readline()  # so that all begin at once
    try:
        with store.lease(name, this_process(), seconds) as lease:
            tell(f"held {lease.token}")
            while not select.select([sys.stdin], [], [], seconds / 5)[0]:
                lease.renew()
    except SlipwayError as error:
        tell(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
