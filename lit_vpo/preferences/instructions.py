"""What the policy is asked for. TEMPO's six caption instructions are partly public; all other wordings are ours."""

DEFAULT_PROMPTS = (
    "Describe the video in detail.",
    "Write a detailed account of what happens in this video.",
    "List the events of the video in the order in which they happen.",
    "Summarise the main actions in the video.",
    "Tell what happens in the video, step by step.",
    "Explain the progression of events from start to finish in the video.",
)
"""Caption instructions; one is drawn per video."""

FIRST_CLIP_PROMPT = "Describe the video in detail."
"""Asked about a video's first clip."""

NEXT_CLIP_PROMPT = (
    "The first two frames are video clip 1, the last two are video clip 2, which comes right after it. First describe "
    "video clip 2. Then say how it is connected with video clip 1: what stays, and what has changed. Finally write, in "
    "one line of its own at the end, a detailed caption of video clip 2."
)
"""Asked about every later clip, after the frames of the clip before: TEMPO's differential captions."""

LIST_PROMPT = (
    "These are captions of the clips of one video, in the order in which they are shown:\n{captions}\n"
    "Write one detailed caption of the whole video in a single paragraph: chronological, fluent, and without saying "
    "anything twice."
)
"""Asked about a list of captions, without the video; `{captions}` stands for its lines."""
