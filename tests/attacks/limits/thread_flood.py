"""As many threads as it can get; without a limit some 30,000 till the kernel refuses."""

import threading
import time

LIMIT = ("processes", "memory", "wall", "seconds")


def attack(t):
    threading.stack_size(32768)
    count, end = 0, time.monotonic() + 20
    while count < 20_000:
        try:
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
            count += 1
        except RuntimeError:
            time.sleep(0.1)
            if time.monotonic() > end:
                break
        if count % 100 == 0:
            open("threads", "w").write(str(count))
    time.sleep(60)
