#!/bin/sh
# The port that process 1 was told to listen on.
port=$(tr '\0' '\n' </proc/1/cmdline | sed -n 's/^--\{0,1\}port=//p')
wget -q --spider "http://localhost:${port:-8080}/healthz"
