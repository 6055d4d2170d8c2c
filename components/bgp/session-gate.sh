#!/bin/sh
# Wait until BGP sessions are established, as the nodes' agents tell of them.
# usage: session-gate SECONDS NODE/PEER...   (KUBECONFIG names the cluster)
set -eu

seconds=$1
shift
started=$(date +%s)
lines='{range .items[*]}{.metadata.name}{range .status.bgpInstances[*].peers[*]}{" "}{.name}={.peeringState}{end}{"\n"}{end}'

elapsed() {
	echo $(($(date +%s) - started))
}

# Print a line for each of "$@" that is not established.
missing() {
	found=$(kubectl --request-timeout=10s get ciliumbgpnodeconfigs --output="jsonpath=$lines" 2>&1) || {
		echo "the API server does not answer: $found"
		return
	}
	for wanted in "$@"; do
		echo "$found" | awk -v node="${wanted%/*}" -v peer="${wanted##*/}" '
			$1 == node {
				state = "no agent has told of it"
				for (field = 2; field <= NF; field++)
					if (index($field, peer "=") == 1) state = substr($field, length(peer) + 2)
			}
			END {
				if (state == "") state = "the node has no BGP"
				if (state != "established") print node " with " peer ": " state
			}'
	done
}

told=''
while lacking=$(missing "$@"); [ -n "$lacking" ]; do
	now="$(echo "$lacking" | wc -l) $(($(elapsed) / 15))"
	if [ "$now" != "$told" ]; then
		told=$now
		echo "waiting for sessions: $(echo "$lacking" | tr '\n' ';' | sed 's/;$//; s/;/; /g') ($(elapsed) s)"
	fi
	if [ "$(elapsed)" -ge "$seconds" ]; then
		{
			echo "not established after $seconds s:"
			echo "$lacking"
			echo "Does the router know these nodes, their system and the password? make render writes its side."
		} >&2
		exit 1
	fi
	sleep 0.5
done
echo "$# sessions established"
