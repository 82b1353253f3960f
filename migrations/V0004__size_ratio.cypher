// Until here every model was of floats: 32 bits for each parameter, so that the size ratio SR is PR.
MATCH (t:Trial) WHERE t.pr IS NOT NULL AND t.sr IS NULL SET t.sr = t.pr, t.step_sr = t.step_pr, t.bits = 32 * t.params;
MATCH (r:Replay) WHERE r.pr IS NOT NULL AND r.sr IS NULL SET r.sr = r.pr, r.bits = 32 * r.params;
MATCH (e:Experience) WHERE e.pr IS NOT NULL AND e.sr IS NULL AND e.origin = 'trial' SET e.sr = e.pr;
