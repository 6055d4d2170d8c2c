#!/usr/bin/python3
"""Run a command as another user of this host: as-user.py USER COMMAND [ARGUMENT...].

su and its kin differ between platforms, and refuse a user whose shell is nologin.
"""

import os
import pwd
import sys


def main(user, *command):
    if os.geteuid() == 0:
        entry = pwd.getpwnam(user)
        os.initgroups(user, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    os.umask(0o077)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
