#!/usr/bin/env bash
# A real Slurm on this one machine, for the tests marked `cluster`: slurm.sh start | stop | status. For Debian, as root.
#
# Needs the packages slurm-wlm and munge and no systemd. There is no accounting (slurmdbd), which many small clusters
# lack: the outcome of a job is known from the queue and from the job's own files only.
set -euo pipefail

BASE=${LWEXP_SLURM:-/var/lib/lwexp-slurm}  # state, logs, process ids
HOST=$(hostname -s)

running() { [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }

configuration() {
    cat <<CONF
ClusterName=lwexp
SlurmctldHost=$HOST
SlurmUser=slurm
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AccountingStorageType=accounting_storage/none
StateSaveLocation=$BASE/state
SlurmdSpoolDir=$BASE/spool
SlurmctldPidFile=$BASE/state/slurmctld.pid
SlurmdPidFile=$BASE/spool/slurmd.pid
SlurmctldLogFile=$BASE/state/slurmctld.log
SlurmdLogFile=$BASE/spool/slurmd.log
MpiDefault=none
# inside containers there are no control groups to be had
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
# what uses more memory than it asked for is killed
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
# more cores than the machine has, so that jobs run beside each other on a small one
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=3000
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
# partition \`high\` takes the place of jobs in \`main\`: their own signal, SIGTERM, and 8 seconds later SIGKILL
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
KillWait=10
# a requeued job starts again when the credential of its last start has expired, by default after two minutes
AuthInfo=cred_expire=5
ReturnToService=2
NodeName=$HOST NodeAddr=127.0.0.1 CPUs=8 RealMemory=$(awk '/MemTotal/ {print int($2 / 1200)}' /proc/meminfo) State=UNKNOWN
PartitionName=main Nodes=$HOST Default=YES MaxTime=1-00:00:00 State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=8
PartitionName=high Nodes=$HOST MaxTime=1-00:00:00 State=UP PriorityTier=10 PreemptMode=OFF
CONF
}

munge_up() {
    install -d -o munge -g munge -m 755 /run/munge
    install -d -o munge -g munge -m 700 /etc/munge /var/lib/munge /var/log/munge
    if [ ! -s /etc/munge/munge.key ]; then
        (umask 077 && head -c 1024 /dev/urandom > /etc/munge/munge.key)
        chown munge: /etc/munge/munge.key
    fi
    running /run/munge/munged.pid || runuser -u munge -- munged --force
}

start() {
    getent hosts "$HOST" >/dev/null || echo "127.0.1.1 $HOST" >> /etc/hosts
    munge_up
    install -d -m 755 "$BASE" "$BASE/spool"
    install -d -o slurm -g slurm -m 755 "$BASE/state"
    configuration > "$BASE/slurm.conf"
    if ! cmp -s "$BASE/slurm.conf" /etc/slurm/slurm.conf; then
        stop_daemons
        install -m 644 "$BASE/slurm.conf" /etc/slurm/slurm.conf
    fi
    running "$BASE/state/slurmctld.pid" || (cd / && slurmctld)
    running "$BASE/spool/slurmd.pid" || (cd / && slurmd)
    for _ in $(seq 60); do
        if sinfo --noheader --format=%t 2>/dev/null | grep -qE 'idle|mix|alloc'; then
            srun --immediate=30 true && echo "Slurm runs on $HOST" && return
        fi
        scontrol update nodename="$HOST" state=resume 2>/dev/null || true
        sleep 0.5
    done
    echo "Slurm did not come up; see $BASE/state/slurmctld.log and $BASE/spool/slurmd.log" >&2
    return 1
}

end() {
    if running "$1"; then
        local process
        process=$(cat "$1")
        kill "$process"
        for _ in $(seq 60); do kill -0 "$process" 2>/dev/null || break; sleep 0.25; done
    fi
}

stop_daemons() {
    end "$BASE/spool/slurmd.pid"
    end "$BASE/state/slurmctld.pid"
}

case "${1:-}" in
    start) start ;;
    stop) stop_daemons; end /run/munge/munged.pid ;;
    status) sinfo; squeue ;;
    *) echo "usage: $0 start | stop | status" >&2; exit 2 ;;
esac
