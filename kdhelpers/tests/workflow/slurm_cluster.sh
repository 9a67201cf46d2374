#!/usr/bin/env bash
# A Slurm cluster of two nodes on this machine, for tests: slurm_cluster.sh start|stop FOLDER
#
# Everything it writes lies in FOLDER, which must be new. After `start`, SLURM_CONF=FOLDER/slurm.conf and FOLDER/bin as the
# first of PATH are all that sbatch, squeue and Snakemake need. Any user may start it: all daemons run as that user, with
# a munge of their own. There is no accounting: a job's state is asked for by squeue, which keeps it for an hour.
set -euo pipefail
[[ $# == 2 && ( $1 == start || $1 == stop ) ]] || { sed -n '2p' "$0" >&2; exit 2; }
PATH=$PATH:/usr/sbin:/sbin

stop() {
    local name pid
    for name in node1 node2 slurmctld munged; do # by the number each of them wrote, and only if it is still that program
        pid=$(cat "$folder/$name.pid" 2>/dev/null) || continue
        grep -qa -e "${name/node?/slurmd}" "/proc/$pid/cmdline" 2>/dev/null || continue
        kill "$pid" 2>/dev/null || true
        for _ in {1..50}; do
            [[ -e /proc/$pid ]] || break
            sleep 0.1
        done
    done
}

start() {
    local name missing=() user ports
    for name in slurmctld slurmd munged sbatch; do
        command -v $name >/dev/null || missing+=($name)
    done
    [[ ${#missing[@]} == 0 ]] || { echo "error: no ${missing[*]}: apt-get install slurmctld slurmd slurm-client munge" >&2; exit 1; }
    user=$(id -un)
    mkdir -p "$folder"/{state,node1,node2,munge,bin}
    # Within a job Snakemake's executor calls srun without any SLURM_ variable: a real cluster has its file in /etc/slurm.
    printf '#!/bin/sh\nSLURM_CONF=%q exec %q "$@"\n' "$folder/slurm.conf" "$(command -v srun)" >"$folder/bin/srun"
    chmod +x "$folder/bin/srun"
    chmod 755 "$folder" "$folder/munge"
    # Three free ports.
    read -ra ports < <(python3 -c 'import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(one.getsockname()[1] for one in sockets))')
    (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
    munged --force --socket="$folder/munge/socket" --key-file="$folder/munge.key" --pid-file="$folder/munged.pid" \
        --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"
    cat >"$folder/slurm.conf" <<CONF
ClusterName=loopback
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
SlurmctldPort=${ports[0]}
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MinJobAge=3600
NodeName=node1 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=${ports[1]} CPUs=1 RealMemory=6000
NodeName=node2 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=${ports[2]} CPUs=1 RealMemory=6000
PartitionName=all Nodes=node1,node2 Default=YES MaxTime=INFINITE State=UP
CONF
    export SLURM_CONF=$folder/slurm.conf
    slurmctld -c >"$folder/start.log" 2>&1
    for name in node1 node2; do
        slurmd -N $name >>"$folder/start.log" 2>&1
    done
    for _ in {1..100}; do
        [[ $(sinfo --noheader --Node --states=idle --format=%N 2>/dev/null | sort -u | wc -l) != 2 ]] || return 0
        sleep 0.2
    done
    echo "error: the two nodes are not idle after 20 s, see $folder/*.log" >&2
    stop
    exit 1
}

folder=$(realpath -m "$2")
"$1"
