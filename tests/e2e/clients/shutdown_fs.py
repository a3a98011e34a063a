#!/usr/bin/env python3
"""shutdown_fs.py MOUNT_POINT default|logflush|nologflush: cuts the power of one mounted ext4 (EXT4_IOC_SHUTDOWN).

Nothing that was not on the device yet will ever get there; until it is unmounted every operation fails.
"""
import fcntl
import os
import struct
import sys

EXT4_IOC_SHUTDOWN = 2 << 30 | 4 << 16 | ord("X") << 8 | 125  # _IOR('X', 125, __u32)
HOW = {"default": 0, "logflush": 1, "nologflush": 2}

fd = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)
fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", HOW[sys.argv[2]]))
