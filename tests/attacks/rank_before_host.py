"""To be served before the host: a higher priority, real time, higher limits than were set."""

import resource


def attacks(t):
    limit, size = resource.RLIMIT_FSIZE, resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    ways = {
        "priority": lambda: os.setpriority(os.PRIO_PROCESS, 0, -1),
        "real time": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
        "file size": lambda: resource.setrlimit(limit, (size + 1, size + 1)),
        "open files": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096)),
        "safe from the memory killer": lambda: open("/proc/self/oom_score_adj", "wb", 0).write(b"-900"),
    }
    return {what: lambda way=way: (way(), "raised") for what, way in ways.items()}
