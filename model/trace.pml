/*
 * What turns ledger.pml into a judge of recorded runs: trace_test.go puts the
 * first part before it, in the place of its printed steps the notes that are
 * defined here, and the second part after it. A history then goes on only as
 * long as it agrees with the record, and the search looks for one that comes to
 * the record's end.
 *
 * A record has what can be seen from outside, in the order in which it was: that a
 * client asks a replica, that a replica calls its store, what the call came to, that
 * a replica signs, that it dies, and that somebody has been answered. A step of the
 * model stands for a call, so it is between the call and its return. A statement is
 * queued after somebody asked, and an answer is seen when it was given, or later. All
 * else is for the search to find: when statements are queued and taken, what is
 * looked up, when a commit that was given up on arrives.
 */
#ifndef RECORD
#define RECORD

#define CALLS 1			/* replica */
#define RETURNS 2		/* replica, step */
#define SIGNS 3			/* replica */
#define DIES 4			/* replica */
#define REGISTERED 5		/* statement, receipt */
#define REFUSED 6		/* statement */
#define ASKS 7			/* replica, statement */

/* Steps of a replica, which a call to its store comes to. */
#define LOADS 1
#define TAKES 2			/* its turn, which loads too */
#define COMMITS 3
#define CONFLICTS 4
#define FINDS 5			/* that some of the batch is there already */
#define FAILS 6
#define DOUBTS 7
#define step(kind, n) ((kind) * 4096 + (n))

c_decl {
	static struct { int what, who, value; } record[4096];
	static int events;

	static void readRecord(void) {
		while (events < 4095 && scanf("%d %d %d", &record[events].what, &record[events].who, &record[events].value) == 3)
			events++;
	}

	/* What the next call of a replica to return comes to; 0: it dies before. */
	static int due(int place, int who) {
		for (; place < events; place++)
			if (record[place].who == who && record[place].what == 2)
				return record[place].value;
			else if (record[place].who == who && record[place].what == 4)
				return 0;
		return -1;
	}
};

short place;			/* in the record */
byte what, who;			/* the event there; 0: the end */
int value;
bool strayed;			/* this history is not the record's */
bool called[2];			/* a call has begun, and not returned */
bool made[2];			/* and its step is made */
bool drawn[2];			/* a batch is ready to be signed */
byte asked[8];			/* statements on their way to a queue */
hidden int next;
hidden byte whose;
hidden byte turning;

#define look() c_code { now.what = record[now.place].what; now.who = record[now.place].who; now.value = record[now.place].value; }
#define advance() place++; look()
#define comes(r) whose = r; c_code { next = due(now.place, whose); }

#define makes(r, n) comes(r); strayed = strayed || !called[r] || made[r] || (next != 0 && next != n); made[r] = true
#define ends(r, kind) drawn[r] = false; makes(r, step(kind, prev * 512 + entries))
#define draws(r) comes(r); strayed = strayed || (next != 0 && next % 4096 != prev * 512 + entries); drawn[r] = true
#define queues(r) strayed = strayed || asked[4 * r + id] == 0; asked[4 * r + id]--
#define dead(r) strayed = strayed || what != DIES || who != r; called[r] = false; made[r] = false; drawn[r] = false; advance()

#else

proctype Observer() {
	do
	:: d_step { what == ASKS -> asked[4 * who + value]++; advance() }
	:: d_step { what == CALLS && !called[who] -> called[who] = true; advance() }
	:: d_step { what == RETURNS && made[who] -> called[who] = false; made[who] = false; advance() }
	:: d_step { what == SIGNS && drawn[who] -> advance() }
	:: d_step { what == REGISTERED && acked[who] == value -> advance() }
	:: d_step { what == REFUSED && refused[who] -> advance() }
	od
}

/* The claim is violated by a history that agrees with the whole record. */
never {
	do
	:: !strayed && (what != 0 || place == 0)
	:: !strayed && place > 0 && what == 0 -> break
	od
}

#endif
