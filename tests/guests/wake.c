/*
 * wake: makes a guest that goes on from a kept state a machine of its own. `start` calls it in the guest.
 *
 *   wake SECONDS.FRACTION SEED NAME      the clock, which stood still meanwhile; randomness, which all machines that go on
 *                                        from the same state would share; the host name
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>
#include <linux/random.h>

int main(int argc, char **argv)
{
	if (argc != 4) {
		fprintf(stderr, "usage: wake SECONDS.FRACTION SEED NAME\n");
		return 2;
	}
	double now = atof(argv[1]);
	struct timespec at = {.tv_sec = (time_t)now};
	at.tv_nsec = (now - at.tv_sec) * 1e9;
	if (clock_settime(CLOCK_REALTIME, &at))
		return perror("wake: clock"), 1;
	if (sethostname(argv[3], strlen(argv[3])))
		return perror("wake: name"), 1;
	/* What is written goes into the pool alone: it has to be drawn from, too. */
	int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
	ssize_t length = strlen(argv[2]);
	if (fd < 0 || write(fd, argv[2], length) != length || ioctl(fd, RNDRESEEDCRNG))
		return perror("wake: randomness"), 1;
	return 0;
}
