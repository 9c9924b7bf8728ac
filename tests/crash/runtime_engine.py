"""An engine to be killed: runs one invocation in the process runtime, for ever.

Arguments: the folder of the code, the handler, the event as JSON, the state folder, modules to preload. With
`ENGINE_FORKS` set, a child that it forks holds all its descriptors, as after a fork in a function that runs inline.
"""

import json
import os
import sys
import time
from pathlib import Path

import anyio

from eventcore.clock import SystemClock
from eventcore.ids import SystemIds
from eventcore.model import Invocation
from eventcore.ports.runtime import FunctionSpec
from eventcore.runtime.process import open_process_runtime

CODE, HANDLER, EVENT, STATE, *PRELOAD = sys.argv[1:]


async def main() -> None:
    function = FunctionSpec(
        name="busy", handler=HANDLER, code=Path(CODE), arn="arn:", timeout_s=900, preload=tuple(PRELOAD)
    )
    invocation = Invocation(request_id="busy", build_event=lambda: json.loads(EVENT))
    async with open_process_runtime(SystemClock(), SystemIds(), lambda _: None, Path(STATE)) as runtime:
        await runtime.prepare(function)
        if "ENGINE_FORKS" in os.environ and os.fork() == 0:
            time.sleep(60)  # noqa: ASYNC251 - nothing else is to run in it
            os._exit(0)
        await runtime.invoke(function, invocation)


anyio.run(main)
