//! The default system call filter (`seccompProfile: RuntimeDefault`), compiled in Rust.
//!
//! The list is the one container engines share: what ordinary programs need is allowed, the rest
//! answers `EPERM`. `clone` may make no namespaces, `clone3` answers `ENOSYS` (its flags are behind
//! a pointer a filter cannot follow, and C libraries fall back to `clone`), `socket` may not reach
//! the hypervisor (`AF_VSOCK`), `personality` may only ask and choose plain layouts.
//!
//! Loading a filter needs `CAP_SYS_ADMIN` unless privileges can never be gained again. A container
//! whose spec does not say so is started with that capability; this executor loads the filter and
//! drops to the wanted set just before the program runs.

use std::collections::BTreeMap;

use libcontainer::capabilities::drop_privileges;
use libcontainer::oci_spec::runtime::{
    Capability, LinuxCapabilities, LinuxCapabilitiesBuilder, Spec,
};
use libcontainer::syscall::syscall::create_syscall;
use libcontainer::workload::default::get_executor;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Runs the program, behind the filter where one is asked for.
#[derive(Clone)]
pub(super) struct PodExecutor {
    sandbox: Option<(Vec<BpfProgram>, LinuxCapabilities)>,
}

impl PodExecutor {
    /// `wanted` are the capabilities to keep once the filter is loaded; `None` loads no filter.
    pub(super) fn new(wanted: Option<&[String]>) -> Result<Self, String> {
        let Some(wanted) = wanted else { return Ok(Self { sandbox: None }) };
        let mut set = std::collections::HashSet::new();
        for name in wanted {
            let capability: Capability = serde_json::from_value(name.as_str().into())
                .map_err(|_| format!("unknown capability {name}"))?;
            set.insert(capability);
        }
        let capabilities = LinuxCapabilitiesBuilder::default()
            .bounding(set.clone())
            .effective(set.clone())
            .permitted(set)
            .inheritable(std::collections::HashSet::new())
            .ambient(std::collections::HashSet::new())
            .build()
            .map_err(|error| error.to_string())?;
        let filters = filters().map_err(|error| format!("seccomp: {error}"))?;
        Ok(Self { sandbox: Some((filters, capabilities)) })
    }
}

impl Executor for PodExecutor {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        if let Some((filters, capabilities)) = &self.sandbox {
            for filter in filters {
                load(filter).map_err(|error| ExecutorError::Other(format!("seccomp: {error}")))?;
            }
            drop_privileges(capabilities, create_syscall().as_ref())
                .map_err(|error| ExecutorError::Other(format!("capabilities: {error}")))?;
        }
        get_executor().exec(spec)
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        get_executor().validate(spec)
    }
}

/// Loads one filter for this thread. Not `seccompiler::apply_filter`: that one also forbids ever
/// gaining privileges, which is the container's own setting.
fn load(filter: &BpfProgram) -> std::io::Result<()> {
    #[repr(C)]
    struct Program {
        length: u16,
        filter: *const seccompiler::sock_filter,
    }
    let length = u16::try_from(filter.len()).map_err(std::io::Error::other)?;
    let program = Program { length, filter: filter.as_ptr() };
    // SAFETY: the kernel copies the program during the call; both pointers live until it returns.
    #[expect(unsafe_code, reason = "no safe wrapper loads a filter without no_new_privs")]
    let answer = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)
    };
    if answer == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn errno(number: i32) -> SeccompAction {
    SeccompAction::Errno(number.unsigned_abs())
}

/// Two filters, because one has a single answer for what matches: of several the strictest counts.
fn filters() -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let mut allowed: BTreeMap<i64, Vec<SeccompRule>> =
        PLAIN.iter().chain(YOUNG).chain(OF_THIS_ARCH).map(|call| (*call, Vec::new())).collect();
    let rule = |argument, operation, value| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operation, value)
            .and_then(|condition| SeccompRule::new(vec![condition]))
    };
    // The namespace flags of clone.
    const NEW_NAMESPACES: u64 = 0x7e02_0000;
    allowed.insert(libc::SYS_clone, vec![rule(0, SeccompCmpOp::MaskedEq(NEW_NAMESPACES), 0)?]);
    let vsock = u64::try_from(libc::AF_VSOCK).unwrap_or(40);
    allowed.insert(libc::SYS_socket, vec![rule(0, SeccompCmpOp::Ne, vsock)?]);
    let layouts = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
    let personalities = layouts
        .into_iter()
        .map(|layout| rule(0, SeccompCmpOp::Eq, layout))
        .collect::<Result<_, _>>()?;
    allowed.insert(libc::SYS_personality, personalities);
    let main = SeccompFilter::new(allowed, errno(libc::EPERM), SeccompAction::Allow, arch)?;
    let without_clone3 = SeccompFilter::new(
        BTreeMap::from([(libc::SYS_clone3, Vec::new())]),
        SeccompAction::Allow,
        errno(libc::ENOSYS),
        arch,
    )?;
    // The narrow one first: the wide one would still allow loading, but so the order is free.
    Ok(vec![without_clone3.try_into()?, main.try_into()?])
}

macro_rules! calls {
    ($($name:ident)*) => { &[$(libc::$name),*] };
}

/// Allowed whatever the arguments, on every architecture.
const PLAIN: &[i64] = calls!(
    SYS_accept SYS_accept4 SYS_adjtimex SYS_bind SYS_brk SYS_capget SYS_capset
    SYS_chdir SYS_chroot SYS_clock_adjtime SYS_clock_getres SYS_clock_gettime SYS_clock_nanosleep SYS_clone3
    SYS_close SYS_close_range SYS_connect SYS_copy_file_range SYS_dup SYS_dup3 SYS_epoll_create1
    SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2 SYS_execve SYS_execveat SYS_exit
    SYS_exit_group SYS_faccessat SYS_faccessat2 SYS_fadvise64 SYS_fallocate SYS_fanotify_mark
    SYS_fchdir SYS_fchmod SYS_fchmodat SYS_fchmodat2 SYS_fchown SYS_fchownat SYS_fcntl SYS_fdatasync
    SYS_fgetxattr SYS_flistxattr SYS_flock SYS_fremovexattr SYS_fsetxattr SYS_fstat SYS_fstatfs
    SYS_fsync SYS_ftruncate SYS_futex SYS_futex_waitv
    SYS_get_robust_list SYS_getcpu SYS_getcwd SYS_getdents64 SYS_getegid SYS_geteuid
    SYS_getgid SYS_getgroups SYS_getitimer SYS_getpeername SYS_getpgid SYS_getpid SYS_getppid
    SYS_getpriority SYS_getrandom SYS_getresgid SYS_getresuid SYS_getrlimit SYS_getrusage SYS_getsid
    SYS_getsockname SYS_getsockopt SYS_gettid SYS_gettimeofday SYS_getuid SYS_getxattr
    SYS_inotify_add_watch SYS_inotify_init1 SYS_inotify_rm_watch SYS_io_cancel SYS_io_destroy
    SYS_io_getevents SYS_io_setup SYS_io_submit SYS_ioctl SYS_ioprio_get
    SYS_ioprio_set SYS_kill SYS_landlock_add_rule SYS_landlock_create_ruleset
    SYS_landlock_restrict_self SYS_lgetxattr SYS_linkat SYS_listen SYS_listxattr SYS_llistxattr
    SYS_lremovexattr SYS_lseek SYS_lsetxattr SYS_madvise SYS_membarrier
    SYS_memfd_create SYS_memfd_secret SYS_mincore SYS_mkdirat SYS_mknodat SYS_mlock SYS_mlock2
    SYS_mlockall SYS_mmap SYS_mprotect SYS_mq_getsetattr SYS_mq_notify SYS_mq_open
    SYS_mq_timedreceive SYS_mq_timedsend SYS_mq_unlink SYS_mremap SYS_msgctl SYS_msgget SYS_msgrcv
    SYS_msgsnd SYS_msync SYS_munlock SYS_munlockall SYS_munmap SYS_name_to_handle_at SYS_nanosleep
    SYS_openat SYS_openat2 SYS_pidfd_open SYS_pidfd_send_signal SYS_pipe2 SYS_pkey_alloc
    SYS_pkey_free SYS_pkey_mprotect SYS_ppoll SYS_prctl SYS_pread64 SYS_preadv SYS_preadv2
    SYS_prlimit64 SYS_process_mrelease SYS_pselect6 SYS_ptrace SYS_pwrite64 SYS_pwritev
    SYS_pwritev2 SYS_process_vm_readv SYS_process_vm_writev SYS_read SYS_readahead SYS_readlinkat
    SYS_readv SYS_recvfrom SYS_recvmmsg SYS_recvmsg SYS_remap_file_pages SYS_removexattr
    SYS_renameat SYS_renameat2 SYS_restart_syscall SYS_rseq SYS_rt_sigaction SYS_rt_sigpending
    SYS_rt_sigprocmask SYS_rt_sigqueueinfo SYS_rt_sigreturn SYS_rt_sigsuspend SYS_rt_sigtimedwait
    SYS_rt_tgsigqueueinfo SYS_sched_get_priority_max SYS_sched_get_priority_min
    SYS_sched_getaffinity SYS_sched_getattr SYS_sched_getparam SYS_sched_getscheduler
    SYS_sched_rr_get_interval SYS_sched_setaffinity SYS_sched_setattr SYS_sched_setparam
    SYS_sched_setscheduler SYS_sched_yield SYS_seccomp SYS_semctl SYS_semget SYS_semop
    SYS_semtimedop SYS_sendfile SYS_sendmmsg SYS_sendmsg SYS_sendto SYS_set_robust_list
    SYS_set_tid_address SYS_setfsgid SYS_setfsuid SYS_setgid SYS_setgroups SYS_setitimer
    SYS_setpgid SYS_setpriority SYS_setregid SYS_setresgid SYS_setresuid SYS_setreuid SYS_setrlimit
    SYS_setsid SYS_setsockopt SYS_setuid SYS_setxattr SYS_shmat SYS_shmctl SYS_shmdt SYS_shmget
    SYS_shutdown SYS_sigaltstack SYS_signalfd4 SYS_socketpair SYS_splice SYS_statfs SYS_statx
    SYS_symlinkat SYS_sync SYS_sync_file_range SYS_syncfs SYS_sysinfo SYS_tee SYS_tgkill
    SYS_timer_create SYS_timer_delete SYS_timer_getoverrun SYS_timer_gettime SYS_timer_settime
    SYS_timerfd_create SYS_timerfd_gettime SYS_timerfd_settime SYS_times SYS_tkill SYS_truncate
    SYS_umask SYS_uname SYS_unlinkat SYS_utimensat SYS_vmsplice SYS_wait4 SYS_waitid SYS_write
    SYS_writev
);

/// Calls younger than the C library's table, with one number everywhere: `cachestat`,
/// `map_shadow_stack`, `futex_wake`, `futex_wait`, `futex_requeue`.
const YOUNG: &[i64] = &[451, 453, 454, 455, 456];

/// The calls x86 keeps for old programs.
#[cfg(target_arch = "x86_64")]
const OF_THIS_ARCH: &[i64] = calls!(
    SYS_access SYS_alarm SYS_arch_prctl SYS_chmod SYS_chown SYS_creat SYS_dup2 SYS_epoll_create
    SYS_epoll_ctl_old SYS_epoll_wait SYS_epoll_wait_old SYS_eventfd SYS_fork SYS_futimesat
    SYS_get_thread_area SYS_getdents SYS_getpgrp SYS_inotify_init SYS_lchown SYS_link SYS_lstat
    SYS_mkdir SYS_mknod SYS_modify_ldt SYS_newfstatat SYS_open SYS_pause SYS_pipe SYS_poll
    SYS_readlink SYS_rename SYS_rmdir SYS_select SYS_set_thread_area SYS_signalfd SYS_stat
    SYS_symlink SYS_time SYS_unlink SYS_ustat SYS_utime SYS_utimes SYS_vfork
);

#[cfg(not(target_arch = "x86_64"))]
const OF_THIS_ARCH: &[i64] = calls!(SYS_newfstatat);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_filters_compile_within_the_kernels_limit() {
        let filters = filters().expect("the rules are well formed");
        // The kernel refuses programs of more than 4096 instructions.
        assert!(filters.iter().all(|filter| !filter.is_empty() && filter.len() <= 4096));
    }

    #[test]
    fn an_unknown_capability_is_named() {
        let refused = PodExecutor::new(Some(&["CAP_FLY".to_owned()]));
        assert!(refused.is_err_and(|error| error.contains("CAP_FLY")));
    }
}
