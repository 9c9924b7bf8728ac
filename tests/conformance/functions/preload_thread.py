"""Leaves a thread."""

import threading

threading.Thread(target=threading.Event().wait, name="heartbeat", daemon=True).start()
