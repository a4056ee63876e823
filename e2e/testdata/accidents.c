/* Loaded into PostgreSQL by the chaos run (LD_PRELOAD): a disk that is full, fails or is slow, and a clock that is
 * wrong. What is wrong now stands in a page that the test shares with every process of the server, so it changes
 * at once and without a restart. Timeouts that count a monotonic clock are left alone, as a wrong clock leaves them. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct accidents {
	int64_t clock_seconds; /* added to the time of day */
	int64_t full_data;     /* files under base/ cannot grow */
	int64_t full_wal;      /* nothing can be written under pg_wal/ */
	int64_t sync_fails;    /* fsync and fdatasync fail */
	int64_t sync_micros;   /* or take this much longer */
	int64_t refused;       /* how often something failed: the test looks whether it did */
};
static struct accidents none;
static volatile struct accidents *now = &none;

__attribute__((constructor)) static void load(void)
{
	const char *path = getenv("FORGEWIRE_E2E_ACCIDENTS");
	int fd = path ? open(path, O_RDWR) : -1;
	if (fd < 0)
		return;
	void *page = mmap(NULL, sizeof none, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (page != MAP_FAILED)
		now = page;
	close(fd);
}

#define REAL(name) \
	static __typeof__(&name) real; \
	if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static int lies_in(int fd, const char *folder)
{
	char link[64], path[4096];
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, path, sizeof path - 1);
	if (n < 0)
		return 0;
	path[n] = 0;
	return strstr(path, folder) != NULL;
}

/* full says whether there is no room for n bytes at an offset (-1: where the file stands). */
static int full(int fd, size_t n, off_t at)
{
	int is = now->full_wal && lies_in(fd, "/pg_wal/");
	if (!is && now->full_data && lies_in(fd, "/base/")) {
		struct stat s;
		if (at < 0)
			at = lseek(fd, 0, SEEK_CUR);
		is = fstat(fd, &s) == 0 && at + (off_t)n > s.st_size;
	}
	if (is) {
		__sync_fetch_and_add(&now->refused, 1);
		errno = ENOSPC;
	}
	return is;
}

ssize_t write(int fd, const void *b, size_t n)
{
	REAL(write);
	return full(fd, n, -1) ? -1 : real(fd, b, n);
}

ssize_t pwrite64(int fd, const void *b, size_t n, off64_t at)
{
	REAL(pwrite64);
	return full(fd, n, at) ? -1 : real(fd, b, n, at);
}

ssize_t pwrite(int fd, const void *b, size_t n, off_t at)
{
	REAL(pwrite);
	return full(fd, n, at) ? -1 : real(fd, b, n, at);
}

static size_t total(const struct iovec *v, int n)
{
	size_t sum = 0;
	for (int i = 0; i < n; i++)
		sum += v[i].iov_len;
	return sum;
}

ssize_t pwritev64(int fd, const struct iovec *v, int n, off64_t at)
{
	REAL(pwritev64);
	return full(fd, total(v, n), at) ? -1 : real(fd, v, n, at);
}

ssize_t pwritev(int fd, const struct iovec *v, int n, off_t at)
{
	REAL(pwritev);
	return full(fd, total(v, n), at) ? -1 : real(fd, v, n, at);
}

int posix_fallocate64(int fd, off64_t at, off64_t n)
{
	REAL(posix_fallocate64);
	return full(fd, n, at) ? ENOSPC : real(fd, at, n);
}

int posix_fallocate(int fd, off_t at, off_t n)
{
	REAL(posix_fallocate);
	return full(fd, n, at) ? ENOSPC : real(fd, at, n);
}

static int bad_sync(void)
{
	if (now->sync_micros)
		usleep(now->sync_micros);
	if (!now->sync_fails)
		return 0;
	__sync_fetch_and_add(&now->refused, 1);
	errno = EIO;
	return 1;
}

int fsync(int fd)
{
	REAL(fsync);
	return bad_sync() ? -1 : real(fd);
}

int fdatasync(int fd)
{
	REAL(fdatasync);
	return bad_sync() ? -1 : real(fd);
}

int gettimeofday(struct timeval *restrict t, void *restrict zone)
{
	REAL(gettimeofday);
	int failed = real(t, zone);
	if (!failed)
		t->tv_sec += now->clock_seconds;
	return failed;
}

int clock_gettime(clockid_t which, struct timespec *t)
{
	REAL(clock_gettime);
	int failed = real(which, t);
	if (!failed && which == CLOCK_REALTIME)
		t->tv_sec += now->clock_seconds;
	return failed;
}

time_t time(time_t *t)
{
	REAL(time);
	time_t v = real(NULL) + now->clock_seconds;
	if (t)
		*t = v;
	return v;
}
